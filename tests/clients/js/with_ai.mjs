// Vercel's `ai`, with its provider for servers that speak OpenAI's language.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, Output, streamText, tool } from "ai";
import { CITIES, MAX_TOKENS, QUESTION, SCHEMA, STOP, SYSTEM, TEXTS, TOO_LONG, UNKNOWN, WRONG_KEY, refusal, server, tell } from "./asked.mjs";

const provider = (apiKey) =>
  createOpenAICompatible({ name: "paddock", baseURL: server.url, apiKey, includeUsage: true, supportsStructuredOutputs: true });
const paddock = provider(server.key);
const asked = { model: paddock(server.model), system: SYSTEM, prompt: QUESTION, temperature: 0, maxOutputTokens: MAX_TOKENS, maxRetries: 0 };
const name = (error) => `${error.name} ${error.statusCode}: ${error.message}`;

const whole = await generateText(asked);
const stream = streamText(asked);
const pieces = [];
for await (const piece of stream.textStream) pieces.push(piece);
const used = await stream.usage;
const shaped = await generateText({ ...asked, output: Output.object({ schema: jsonSchema(SCHEMA) }) });
const required = { tools: { weather: tool({ description: "The weather of a city.", inputSchema: jsonSchema(CITIES) }) }, toolChoice: "required" };
const called = await generateText({ ...asked, ...required });
const callStream = streamText({ ...asked, ...required });
await callStream.consumeStream();
const calls = (list) => list.map((call) => [call.toolName, call.input]);
const vectors = await embedMany({ model: paddock.embeddingModel(server.model), values: TEXTS, maxRetries: 0 });
tell({
  text: whole.text,
  usage: [whole.usage.inputTokens, whole.usage.outputTokens],
  streamed: pieces.join(""),
  streamed_usage: [used.inputTokens, used.outputTokens],
  pieces: pieces.length,
  stopped: (await generateText({ ...asked, stopSequences: [STOP] })).text,
  shaped: shaped.output,
  called: calls(called.toolCalls),
  "called streamed": calls(await callStream.toolCalls),
  vectors: vectors.embeddings,
  "wrong key": await refusal(generateText({ ...asked, model: provider(WRONG_KEY)(server.model) }), name),
  "unknown model": await refusal(generateText({ ...asked, model: paddock(UNKNOWN) }), name),
  "too long": await refusal(generateText({ ...asked, prompt: TOO_LONG }), name),
});
