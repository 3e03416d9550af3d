// What the JavaScript clients are asked, and how their answers are printed. The same as scripts/asked.py. Knows no client.

export const SYSTEM = "Answer in one short sentence.";
export const QUESTION = "What is a LoRA?";
export const MAX_TOKENS = 60;
export const STOP = " small";
export const TOO_LONG = "word ".repeat(3000);
export const UNKNOWN = "no-such-model";
export const WRONG_KEY = "a wrong key";
export const TEXTS = ["A LoRA is a small file.", "It rains today."];
export const SCHEMA = {
  type: "object",
  properties: { color: { type: "string", enum: ["red", "green", "blue"] }, count: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["color", "count"],
  additionalProperties: false,
};
export const CITIES = { type: "object", properties: { city: { type: "string", enum: ["Paris", "Rome"] } }, required: ["city"], additionalProperties: false };

const { PADDOCK_URL, PADDOCK_KEY, PADDOCK_MODEL } = process.env;
export const server = { url: `${PADDOCK_URL}v1`, key: PADDOCK_KEY, model: PADDOCK_MODEL };

/** What a promise is refused with, as the text that `name` makes of the error. */
export async function refusal(promise, name) {
  try {
    return `no error but ${JSON.stringify(await promise)}`;
  } catch (error) {
    return name(error);
  }
}

/** Print what was found, as the last line. */
export function tell(facts) {
  process.stdout.write(`\n${JSON.stringify(facts)}\n`);
}
