// Images that wait for their message, by conversation: the browser keeps them over a reload. Where it keeps nothing, and in private
// conversations, they last until then.

import { isPrivate } from "./private_chat.js";

const NAME = "paddock-images";
const STORE = "waiting";

function withStore(mode, work) {
  return new Promise((resolve) => {
    const nothing = () => resolve(undefined);
    const opening = indexedDB.open(NAME, 1);
    opening.addEventListener("upgradeneeded", () => opening.result.createObjectStore(STORE));
    opening.addEventListener("error", nothing);
    opening.addEventListener("blocked", nothing);
    opening.addEventListener("success", () => {
      const run = opening.result.transaction(STORE, mode);
      const asked = work(run.objectStore(STORE));
      run.addEventListener("complete", () => { opening.result.close(); resolve(asked.result); });
      run.addEventListener("abort", () => { opening.result.close(); nothing(); });
    });
  });
}

export async function waitingImages(conversation) {
  if (isPrivate(conversation)) return [];
  return (await withStore("readonly", (store) => store.get(conversation))) ?? [];
}

export function keepImages(conversation, images) {
  if (isPrivate(conversation)) return Promise.resolve();
  return withStore("readwrite", (store) => (images.length ? store.put([...images], conversation) : store.delete(conversation)));
}
