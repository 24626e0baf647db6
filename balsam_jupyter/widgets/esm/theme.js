// Whether the page is dark, whatever it is: JupyterLab, VS Code, a page of its own.

/** Call with true or false now and whenever it changes; returns what ends that. */
export function followTheme(element, listener) {
  let dark = null;
  const look = () => {
    const [red, green, blue] = (getComputedStyle(element).color.match(/[\d.]+/g) ?? []).map(Number);
    if (blue === undefined) return void (dark === null && listener(false)); // it is not in the page yet
    const now = 0.3 * red + 0.6 * green + 0.1 * blue > 140; // the text is light
    if (now !== dark) listener((dark = now));
  };
  const soon = () => setTimeout(look, 100); // a theme's style sheet follows its name
  const observer = new MutationObserver(soon);
  observer.observe(document.body, { attributes: true });
  observer.observe(document.documentElement, { attributes: true });
  const query = matchMedia("(prefers-color-scheme: dark)");
  query.addEventListener("change", soon);
  const late = setInterval(look, 2000); // of a style sheet that takes its time, nothing is told
  look();
  requestAnimationFrame(look);
  return () => {
    observer.disconnect();
    query.removeEventListener("change", soon);
    clearInterval(late);
  };
}
