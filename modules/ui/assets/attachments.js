// What goes with the next message: documents, which the server reads, and images, made smaller here where they are larger than any model looks at.

import { AttachedFiles } from "./attached_files.js";
import { h, iconButton } from "./dom.js";
import { keepImages, waitingImages } from "./image_drafts.js";

const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const MOST = 16; // in one message
const LONGEST_SIDE = 2048;
const LARGEST_BYTES = 1.5e6;

export class Attachments {
  /** `changed()` is told when there are more or fewer; `refuse(sentence)` shows why one was not taken; `typed(text)` gets a text that is put back. */
  constructor({ changed, refuse, typed }) {
    Object.assign(this, { changed, refuse, kept: new Map(), images: [], sees: true });
    this.documents = new AttachedFiles({ changed, refuse, typed });
    this.input = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files", on: { change: () => this.chosen() } });
    this.button = iconButton("clip", "Attach files: documents, code, tables, images", () => this.input.click());
    this.element = h("div", { class: "attached", hidden: true, role: "list", "aria-label": "Attached images" });
  }

  /** Whether the model that answers sees images, also while it sleeps. Where nobody knows, it says so itself when it is asked. */
  setModel(sees) {
    this.sees = sees !== false;
  }

  /** Another conversation is open: what is attached there comes back. */
  setConversation(id) {
    this.documents.setConversation(id);
    this.kept.set(this.conversation, this.images);
    if (this.conversation !== undefined) this.images = this.kept.get(id) ?? []; // else there was none to attach them to
    this.conversation = id;
    this.draw();
    if (id && !this.kept.has(id)) this.comeBack(id);
  }

  /** Those that waited when the page was left. */
  async comeBack(id) {
    this.kept.set(id, this.images);
    const images = await waitingImages(id);
    const list = id === this.conversation ? this.images : this.kept.get(id);
    list.unshift(...images);
    if (list.length > images.length) keepImages(id, list); // some came before the browser had answered
    this.draw();
  }

  /** There are more or fewer: the browser keeps them as they are now. */
  changedImages() {
    if (this.conversation) keepImages(this.conversation, this.images);
    this.draw();
  }

  /** Those that were sent are gone; what was added meanwhile stays. */
  sent(images, files, conversation) {
    this.documents.sent(files, conversation);
    const rest = (list) => list.filter((image) => !images.includes(image));
    if (conversation === this.conversation) this.images = rest(this.images);
    else this.kept.set(conversation, rest(this.kept.get(conversation) ?? []));
    if (images.length) keepImages(conversation, conversation === this.conversation ? this.images : this.kept.get(conversation));
    this.draw();
  }

  /** Those of a message that was taken back. */
  giveBack(images, files, conversation) {
    const list = conversation === this.conversation ? this.images : this.kept.get(conversation) ?? [];
    list.unshift(...images);
    if (images.length) keepImages(conversation, list);
    if (files.length && conversation === this.conversation) this.documents.setConversation(conversation); // they wait at the server
    this.draw();
  }

  /** The message is back with its own. */
  takeAway(images, files, conversation) {
    this.sent(images, files, conversation);
    this.documents.discard(files, conversation);
  }

  async chosen() {
    const files = [...this.input.files];
    this.input.value = "";
    await this.add(files);
  }

  /** Files from a paste or a drop; true if there are any. */
  take(files) {
    if (files.length) this.add([...files]);
    return files.length > 0;
  }

  async add(files) {
    const images = files.filter((file) => file.type.startsWith("image/") && file.type !== "image/svg+xml");
    const documents = files.filter((file) => !images.includes(file));
    await Promise.all([images.length ? this.addImages(images) : null, ...documents.map((file) => this.documents.add(file))]);
  }

  async addImages(files) {
    if (!this.sees) { this.refuse("The loaded model does not see images; load one that does on the Models page."); return; }
    const { conversation } = this;
    for (const file of files) {
      try {
        const image = await asDataUrl(file);
        const list = conversation === this.conversation ? this.images : this.kept.get(conversation);
        if (list.length >= MOST) throw new Error(`A message can have ${MOST} images.`);
        list.push(image);
        if (conversation) keepImages(conversation, list);
      } catch (error) { this.refuse(error.message); }
    }
    this.draw();
  }

  draw() {
    this.element.hidden = !this.images.length;
    this.element.replaceChildren(...this.images.map((image, place) => {
      const remove = iconButton("close", `Remove image ${place + 1}`, () => { this.images.splice(this.images.indexOf(image), 1); this.changedImages(); });
      return h("div", { role: "listitem" }, h("img", { src: image, alt: `Image ${place + 1}` }), remove);
    }));
    this.changed();
  }
}

async function asDataUrl(file) {
  const known = KINDS.includes(file.type);
  let picture;
  try { picture = await createImageBitmap(file); } catch {
    throw new Error(known ? `${file.name} cannot be read; it is damaged, or not what its name says.` : `${file.name} cannot be read: this browser shows no such image, or it is damaged. Save it as PNG, JPEG, WebP or GIF.`);
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
  if (known && scale === 1 && file.size <= LARGEST_BYTES) return read(file);
  const canvas = h("canvas", { width: Math.max(1, Math.round(picture.width * scale)), height: Math.max(1, Math.round(picture.height * scale)) });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // a JPEG has no transparent parts
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const lossless = known ? "" : canvas.toDataURL("image/png"); // a BMP is often a screenshot, whose letters a JPEG would blur
  if (lossless && lossless.length <= LARGEST_BYTES) return lossless;
  return canvas.toDataURL("image/jpeg", 0.92);
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name} cannot be read.`)));
    reader.readAsDataURL(file);
  });
}
