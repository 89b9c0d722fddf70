/* Vercel's ai with its OpenAI-compatible provider, unmodified: generateText and streamText on a completion
 * model, errors, abort. */
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, streamText } from 'ai';

const provider = createOpenAICompatible({ name: 'ttmd', baseURL: process.env.E2E_BASE + '/v1', apiKey: 'none', includeUsage: true });
const model = provider.completionModel('e2e');
const ask = { model, prompt: 'Once upon a time', maxOutputTokens: 12, temperature: 0, maxRetries: 0 };

const whole = await generateText(ask);
assert.ok(whole.text.length > 0);
assert.ok(['length', 'stop'].includes(whole.finishReason));
assert.ok(whole.usage.outputTokens >= 1 && whole.usage.inputTokens >= 1);

const streamed = streamText(ask);
let text = '', parts = 0;
for await (const part of streamed.textStream) { text += part; parts++; }
assert.equal(text, whole.text);
assert.ok(parts > 1, 'more than one part');
assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);

await assert.rejects(generateText({ ...ask, temperature: 9 }), e => APICallError.isInstance(e) && e.statusCode === 400 && /'temperature' is 9/.test(e.message) && !e.isRetryable);
await assert.rejects(generateText({ ...ask, model: provider.completionModel('other') }), e => APICallError.isInstance(e) && e.statusCode === 404);

const stop = new AbortController();
let seen = 0;
for await (const part of streamText({ ...ask, maxOutputTokens: 400, abortSignal: stop.signal }).fullStream) {
  if (part.type === 'text-delta' && ++seen === 3) stop.abort();
  if (part.type === 'abort') break;
}
assert.ok(seen >= 1);
