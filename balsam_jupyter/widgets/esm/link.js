// The page's side of a Live widget: asks the kernel, and is told what it pushes.

export const GONE = "The kernel that showed this has gone. Run this cell again.";

/**
 * One link for each model; its views share it.
 *   ask(what, arguments, {quiet}) → promise of the answer; it waits while a cell runs, as all that the kernel is asked.
 *     That nobody waits for a quiet one is not said.
 *   on(kind, listener(value, buffers)) → function that takes the listener out.
 *   onWaiting(listener(boolean)): whether some question has waited for more than half a second.
 *   gone(): whether the kernel that showed this is known to have gone; VS Code leaves the view where it was.
 */
export function connect(model) {
  let last = 0;
  const open = new Map();
  const listeners = new Map();
  const waitingListeners = new Set();
  let timer = null;
  let gone = false;

  const settle = () => {
    if ([...open.values()].some((question) => !question.quiet)) return;
    clearTimeout(timer);
    timer = null;
    for (const listener of waitingListeners) listener(false);
  };

  const lose = () => {
    gone = true;
    for (const question of open.values()) question.reject(new Error(GONE));
    open.clear();
    settle();
  };

  model.on("msg:custom", (message, buffers) => {
    if (message.push !== undefined) {
      for (const listener of listeners.get(message.push) ?? []) listener(message.value, buffers);
      return;
    }
    const question = open.get(message.answer);
    if (!question) return; // another page's
    open.delete(message.answer);
    settle();
    if (message.error === undefined) question.resolve(message.value);
    else question.reject(new Error(message.error));
  });

  const page = Math.floor(Math.random() * 2 ** 31); // two pages of one kernel must not take each other's answers
  return {
    ask(what, args = {}, { quiet = false } = {}) {
      const number = `${page}-${(last += 1)}`;
      if (!quiet) timer ??= setTimeout(() => waitingListeners.forEach((listener) => listener(true)), 500);
      return new Promise((resolve, reject) => {
        open.set(number, { resolve, reject, quiet });
        try {
          model.send({ ask: number, what, arguments: args });
        } catch {
          lose();
        }
      });
    },
    on(kind, listener) {
      if (!listeners.has(kind)) listeners.set(kind, new Set());
      listeners.get(kind).add(listener);
      return () => listeners.get(kind).delete(listener);
    },
    gone: () => gone,
    onWaiting(listener) {
      waitingListeners.add(listener);
      return () => waitingListeners.delete(listener);
    },
  };
}
