/** What robots send all day, with values as they come: floats of 32 bits that no short decimal is equal to. */
import type { RosMessage } from '../../runtime/telemetry.ts';

export const header = (frame: string): RosMessage => ({
  stamp: { sec: 1_764_000_000, nanosec: 123_456_789 },
  frame_id: frame,
});

/** A whole turn in steps of one degree: 360 ranges and 360 intensities. */
export function laserScan(): RosMessage {
  const rays = Array.from({ length: 360 }, (_, degree) => (degree * Math.PI) / 180);
  return {
    header: header('laser'),
    angle_min: 0,
    angle_max: Math.fround(2 * Math.PI),
    angle_increment: Math.fround(Math.PI / 180),
    time_increment: 0,
    scan_time: Math.fround(0.1),
    range_min: Math.fround(0.12),
    range_max: 12,
    ranges: Float32Array.from(rays, (angle) => 5 + Math.sin(7 * angle)),
    intensities: Float32Array.from(rays, (angle) => 100 + 50 * Math.cos(3 * angle)),
  };
}

export function odometry(): RosMessage {
  const covariance = Float64Array.from({ length: 36 }, (_, index) =>
    index % 7 === 0 ? 0.01 * (index + 1) : 0,
  );
  return {
    header: header('odom'),
    child_frame_id: 'base_link',
    pose: {
      pose: {
        position: { x: 1.2345678901, y: -3.4567890123, z: 0 },
        orientation: { x: 0, y: 0, z: Math.sin(0.4), w: Math.cos(0.4) },
      },
      covariance,
    },
    twist: {
      twist: { linear: { x: 0.7312, y: 0, z: 0 }, angular: { x: 0, y: 0, z: -0.1234 } },
      covariance,
    },
  };
}
