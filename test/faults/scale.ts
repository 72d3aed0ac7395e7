/** How much of everything: seconds in the gate, the full counts with ATOLL_SOAK=1. The code is the same. */
export const soak = process.env['ATOLL_SOAK'] === '1';

export const scale = soak
  ? {
      /** Events of each flow. */
      events: 100_000,
      /** The flows take at least this long, so that a fault finds them at work. */
      flowMs: 120_000,
      /** How long something stands still, is cut off or has no space. */
      faultMs: 60_000,
      /** After the last event was accepted. */
      closingMs: 1_200_000,
      /** Events of each flow when nothing strikes: a million in all. */
      longRunEvents: 333_334,
    }
  : { events: 1_667, flowMs: 4_000, faultMs: 3_000, closingMs: 90_000, longRunEvents: 5_000 };

/** Ample: on a busy machine everything takes longer, and a test's limit is no measurement. */
export const testTimeoutMs = scale.flowMs * 5 + scale.faultMs * 10 + scale.closingMs + 60_000;
