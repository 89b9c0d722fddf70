/* LangChain's OpenAI completion model, unmodified: invoke, batch, stream, stop, errors, abort. */
import assert from 'node:assert/strict';
import { OpenAI } from '@langchain/openai';

const options = { model: 'e2e', apiKey: 'none', temperature: 0, maxTokens: 12, maxRetries: 0, configuration: { baseURL: process.env.E2E_BASE + '/v1' } };
const llm = new OpenAI(options);

const whole = await llm.invoke('Once upon a time');
assert.ok(typeof whole === 'string' && whole.length > 0);
assert.deepEqual(await llm.batch(['Once upon a time', 'Once upon a time']), [whole, whole]);

let text = '', parts = 0;
for await (const part of await llm.stream('Once upon a time')) { text += part; parts++; }
assert.equal(text, whole);
assert.ok(parts > 1, 'more than one part');

const generated = await llm.generate(['Once upon a time']);
assert.ok(generated.llmOutput.tokenUsage.completionTokens >= 1);

const cut = [...whole][2];
const stopped = await new OpenAI({ ...options, stop: [cut] }).invoke('Once upon a time');
assert.ok(!stopped.includes(cut) && whole.startsWith(stopped));

await assert.rejects(new OpenAI({ ...options, temperature: 9 }).invoke('a'), e => e.status === 400 && e.code === 'invalid_value');

const stop = new AbortController();
let seen = 0;
await assert.rejects((async () => {
  for await (const part of await new OpenAI({ ...options, maxTokens: 400 }).stream('Once', { signal: stop.signal })) { seen += part.length; if (seen >= 3) stop.abort(); }
})(), /[Aa]bort/);
