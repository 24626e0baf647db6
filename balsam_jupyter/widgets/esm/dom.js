// Elements and text. Whatever comes from a task, a log or a user goes through here, and so is text, never markup.

/** h("button", {class: "x", onclick: f, disabled: true}, "text", element, …) */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child != null));
  return element;
}

/** Set the text of an element, if it is another: what does not change costs the page nothing. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
