// Seconds that are counted down.

/** Calls `tick` with the whole seconds that are left, down to 0; returns what ends it early. */
export function countDown(seconds, tick) {
  const endAt = performance.now() + seconds * 1000;
  const step = () => {
    const left = Math.max(0, Math.ceil((endAt - performance.now()) / 1000));
    if (left === 0) clearInterval(timer);
    tick(left);
  };
  const timer = setInterval(step, 200);
  step();
  return () => clearInterval(timer);
}
