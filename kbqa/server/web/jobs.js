// Jobs of the service, looked at until they have ended.

import { call } from "./api.js";

const FIRST = 300; // milliseconds between looks
const LATER = 2000;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Tells every state of a job to `on`, with so many of its files, and resolves with the last one. A service that is away
// for a while is waited for.
export async function follow(id, on, files = 1) {
  let wait = FIRST;
  let missed = 0;
  for (;;) {
    let job = null;
    try {
      job = await call("GET", `api/v1/jobs/${id}?limit=${files}`);
      missed = 0;
    } catch (error) {
      missed += 1;
      if ((error.status && error.status !== 429 && error.status !== 503) || missed > 30) throw error;
      await pause(Math.max(1000 * (error.after ?? 0), LATER));
    }
    if (job) on(job);
    if (job && !["queued", "running"].includes(job.state)) return job;
    await pause(wait);
    wait = Math.min(LATER, wait * 1.2);
  }
}
