// Characters and the person's profiles as the server has them: the lists, and uploads of files. Draws nothing.

import { RequestError, address, emit, request } from "./page.js";

class Cards {
  constructor(kind, one) {
    Object.assign(this, { kind, one, rows: [], fields: [], asked: null });
  }

  /** The list, asked for once until something changes. */
  load(anew = false) {
    if (anew || !this.asked) this.asked = this.fetch();
    return this.asked;
  }

  async fetch() {
    try {
      const { cards, fields } = await request("GET", `ui/${this.kind}`);
      Object.assign(this, { rows: cards, fields });
      emit("cards", this.kind);
    } catch (error) { this.asked = null; throw error; }
  }

  of(name) {
    return this.rows.find((row) => row.name === name);
  }

  /** What one calls itself, or the name of its file until the list is here. */
  title(name) {
    return this.of(name)?.title || name;
  }

  path(name, rest = "") {
    return `ui/${this.kind}/${encodeURIComponent(name)}${rest}`;
  }

  /** Address of its picture, or "". */
  picture(name) {
    const row = this.of(name);
    return row?.picture ? address(this.path(name, `/picture?v=${row.picture}`)).href : "";
  }

  async change(method, path, body) {
    const answer = body instanceof Blob ? await upload(method, path, body) : await request(method, path, body);
    await this.load(true);
    return answer;
  }
}

export const characters = new Cards("characters", "character");
export const profiles = new Cards("profiles", "profile");

/** A file as the body of a request. */
async function upload(method, path, file) {
  let response;
  try {
    response = await fetch(address(path), { method, headers: { "content-type": "application/octet-stream" }, body: file });
  } catch {
    throw new RequestError("The server does not answer. Check that Paddock is still running, then try again.", "Unreachable", 0, {});
  }
  return answerOf(response);
}

/** The JSON of a response, or its error as a sentence. */
export async function answerOf(response) {
  const data = await response.json().catch(() => ({}));
  if (response.ok) return data;
  const error = data.error ?? {};
  throw new RequestError(error.message ?? `The server answered ${response.status}. Try again.`, error.type ?? "", response.status, error.details ?? {});
}

/** A picture of any kind the browser knows as a PNG of at most 1,024 pixels a side. */
export async function asPng(file) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, 1024 / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
