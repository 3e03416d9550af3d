// What was typed or pasted into the text boxes of the settings and is not stored yet. The system prompt is read here; parameters are read by the
// server when typing pauses, and here where the page goes or opens something else before that. How they are read: form.py, whose checks follow.

const ESCAPES = Object.freeze({ n: "\n", t: "\t", r: "\r", "\\": "\\" });
const READERS = Object.freeze({
  text: (text) => text,
  optional: (text) => text.trim() || null,
  lines: (text) => text.split("\n").filter(Boolean).map((line) => line.replace(/\\([ntr\\])/g, (_, letter) => ESCAPES[letter])),
  numbers: (text) => parts(text, /[,\n]/),
  pairs: (text) => Object.fromEntries(parts(text, "\n").map((line) => line.split(/:(.*)/s, 2)).map(([key, value = ""]) => [key.trim(), value.trim()])),
});

function parts(text, end) {
  return text.split(end).map((part) => part.trim()).filter(Boolean);
}

/** `{name, value()}` of the parameter that a box is for; null for others. */
function parameterOf(box) {
  const word = (start) => box.closest(`[class*="${start}"]`)?.className.match(new RegExp(`(?:^|\\s)${start}([\\w-]+)`))?.[1];
  const [name, read, text] = [word("field-"), READERS[word("typed-")], box.value];
  return name && read ? { name, value: () => read(text) } : null;
}

export class SettingsTyped {
  constructor() {
    this.prompt = null; // {form, text}
    this.params = new Map(); // name → {form, value(), asked}
  }

  note(form, box) {
    if (box.closest("#system-prompt")) { this.prompt = { form, text: box.value }; return; }
    const parameter = parameterOf(box);
    if (parameter) this.params.set(parameter.name, { form, value: parameter.value, asked: false });
  }

  /** The server is asked to read the form as it is now. */
  areAsked() {
    for (const one of this.params.values()) one.asked = true;
  }

  /** It has. */
  areRead(form) {
    for (const [name, one] of this.params) if (one.asked && one.form === form) this.params.delete(name);
  }

  /** Parameters that the server has not read. */
  get isWaiting() { return this.params.size > 0; }

  /** Forget parameters of other forms than this one. */
  keepOnly(form) {
    for (const [name, one] of this.params) if (one.form !== form) this.params.delete(name);
  }

  /** `[form, edits]` one by one, as of some that are refused the others count; forgotten here. With `all` parameters too. */
  take(all) {
    const found = [];
    const { form, text } = this.prompt ?? {};
    this.prompt = null;
    if (form && text !== (form.settings.system_prompt ?? "")) found.push([form, { settings: { system_prompt: text } }]);
    if (!all) return found;
    for (const [name, one] of this.params) found.push([one.form, { within: { params: { put: { [name]: one.value() }, drop: [] } } }]);
    this.params.clear();
    return found;
  }
}
