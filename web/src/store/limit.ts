/** Runs at most so many tasks at a time, in the order given. */

export type Limit = <T>(task: () => Promise<T>, urgent?: 'urgent') => Promise<T>;

/** An urgent task goes before all that wait. */
export function limit(atOnce: number): Limit {
  const waiting: (() => void)[] = [];
  let running = 0;

  function next(): void {
    if (running >= atOnce) return;
    const start = waiting.shift();
    if (!start) return;
    running += 1;
    start();
  }
  return (task, urgent) =>
    new Promise((resolve, reject) => {
      const start = () => {
        task()
          .then(resolve, reject)
          .finally(() => {
            running -= 1;
            next();
          });
      };
      if (urgent) waiting.unshift(start);
      else waiting.push(start);
      next();
    });
}
