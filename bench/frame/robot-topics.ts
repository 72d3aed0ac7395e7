/** What the robot's topics carry in a round, from the benchmark to the process that publishes them. */

export interface RobotRound {
  readonly seconds: number;
  readonly stateTopic: string;
  readonly stateHz: number;
  /** Absent: no frames. */
  readonly frameTopic?: string;
  readonly frameHz: number;
  readonly frameBytes: number;
}

export interface RobotPublished {
  readonly states: number;
  readonly frames: number;
}
