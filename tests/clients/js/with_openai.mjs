// npm's `openai`.

import OpenAI from "openai";
import { CITIES, MAX_TOKENS, QUESTION, SCHEMA, STOP, SYSTEM, TEXTS, TOO_LONG, UNKNOWN, WRONG_KEY, refusal, server, tell } from "./asked.mjs";

const client = new OpenAI({ baseURL: server.url, apiKey: server.key, maxRetries: 0 });
const stranger = new OpenAI({ baseURL: server.url, apiKey: WRONG_KEY, maxRetries: 0 });
const messages = [{ role: "system", content: SYSTEM }, { role: "user", content: QUESTION }];
const asked = { model: server.model, messages, temperature: 0, max_tokens: MAX_TOKENS };
const chat = (more) => client.chat.completions.create({ ...asked, ...more });
const name = (error) => error.constructor.name;

const models = [];
for await (const model of client.models.list()) models.push(model.id);
const whole = await chat({});
const chunks = [];
for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
const last = chunks.at(-1).usage;
const shape = { type: "json_schema", json_schema: { name: "thing", schema: SCHEMA, strict: true } };
const tool = { type: "function", function: { name: "weather", description: "The weather of a city.", parameters: CITIES } };
const required = { tools: [tool], tool_choice: "required" };
const called = (await chat(required)).choices[0].message.tool_calls;
const streamed = await client.chat.completions.stream({ ...asked, ...required }).finalChatCompletion();
const calls = (list) => list.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
const vectors = await client.embeddings.create({ model: server.model, input: TEXTS });
tell({
  models,
  text: whole.choices[0].message.content,
  usage: [whole.usage.prompt_tokens, whole.usage.completion_tokens],
  streamed: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
  streamed_usage: [last.prompt_tokens, last.completion_tokens],
  pieces: chunks.length,
  stopped: (await chat({ stop: STOP })).choices[0].message.content,
  shaped: JSON.parse((await chat({ response_format: shape })).choices[0].message.content),
  called: calls(called),
  "called streamed": calls(streamed.choices[0].message.tool_calls),
  vectors: vectors.data.map((row) => row.embedding),
  "wrong key": await refusal(stranger.chat.completions.create(asked), name),
  "unknown model": await refusal(chat({ model: UNKNOWN }), name),
  "too long": await refusal(chat({ messages: [{ role: "user", content: TOO_LONG }] }), name),
});
