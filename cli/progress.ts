/** Something that takes time is said on stderr once it takes longer than a second. */
export interface Progress {
  /** What is being waited for now. */
  update(text: string): void;
  stop(): void;
}

const quietMs = 1000;

export function startProgress(text: string): Progress {
  const show = process.stderr.isTTY ? spinner() : plainLines();
  let current = text;
  let shown = false;
  const timer = setTimeout(() => {
    shown = true;
    show.update(current);
  }, quietMs);
  return {
    update(next) {
      if (next === current) return;
      current = next;
      if (shown) show.update(next);
    },
    stop() {
      clearTimeout(timer);
      show.stop();
    },
  };
}

/** Runs work under a progress line that ends with it, however it ends. */
export async function withProgress<T>(text: string, work: (progress: Progress) => Promise<T>): Promise<T> {
  const progress = startProgress(text);
  try {
    return await work(progress);
  } finally {
    progress.stop();
  }
}

function plainLines(): Progress {
  return { update: (text) => void process.stderr.write(`${text} …\n`), stop: () => undefined };
}

function spinner(): Progress {
  let current = '';
  let stopped = false;
  let running: { text: string; stop(): unknown } | undefined;
  let loading = false;
  // Loaded only once there is something to show: it costs tens of milliseconds.
  const load = async (): Promise<void> => {
    loading = true;
    const { default: ora } = await import('ora');
    if (!stopped) running = ora({ text: current, stream: process.stderr, discardStdin: false }).start();
  };
  return {
    update(text) {
      current = text;
      if (running !== undefined) running.text = text;
      else if (!loading) void load();
    },
    stop() {
      stopped = true;
      running?.stop();
    },
  };
}
