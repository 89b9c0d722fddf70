/* OpenAI's own SDK, unmodified: whole and streamed completions, errors by class, retries, abort. */
import assert from 'node:assert/strict';
import { createServer, request } from 'node:http';
import OpenAI from 'openai';

const base = process.env.E2E_BASE;
const client = new OpenAI({ baseURL: base + '/v1', apiKey: 'none', maxRetries: 0 });
const model = 'e2e';
const ask = { model, prompt: 'Once upon a time', max_tokens: 12, temperature: 0 };

const models = await client.models.list();
assert.equal(models.data[0].id, model);
assert.equal((await client.models.retrieve(model)).object, 'model');

const whole = await client.completions.create({ ...ask, logprobs: 3, echo: true });
assert.equal(whole.object, 'text_completion');
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
assert.equal(whole.choices[0].logprobs.tokens.length, whole.usage.total_tokens);
assert.ok(whole._request_id, 'the SDK finds the request id');

let text = '', usage = null;
for await (const chunk of await client.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
  for (const c of chunk.choices) text += c.text;
  usage = chunk.usage ?? usage;
}
assert.ok(whole.choices[0].text.endsWith(text) && text.length > 0, 'streamed and whole agree');
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

await assert.rejects(client.completions.create({ ...ask, temperature: 9 }), e => e instanceof OpenAI.BadRequestError && e.status === 400 && e.code === 'invalid_value' && e.param === 'temperature' && e.type === 'invalid_request_error' && !!e.requestID);
await assert.rejects(client.completions.create({ ...ask, model: 'other' }), e => e instanceof OpenAI.NotFoundError && e.code === 'model_not_found');
await assert.rejects(client.models.retrieve('other'), OpenAI.NotFoundError);
await assert.rejects(client.completions.create({ ...ask, stream: true, n: 0 }), OpenAI.BadRequestError);
await assert.rejects(client.chat.completions.create({ model, messages: [] }), OpenAI.NotFoundError, 'completions models have no chat');

/* Retries: a proxy that answers the first two tries as an overloaded daemon does. */
let tries = 0;
const proxy = createServer((req, res) => {
  if (++tries <= 2) {
    res.writeHead(429, { 'Content-Type': 'application/json', 'Retry-After': '0' });
    res.end(JSON.stringify({ error: { message: 'all places are taken', type: 'overloaded_error', param: null, code: 'server_overloaded' } }));
    return;
  }
  const { host, ...headers } = req.headers;
  req.pipe(request(base + req.url, { method: req.method, headers }, up => { res.writeHead(up.statusCode, up.headers); up.pipe(res); }));
});
await new Promise(done => proxy.listen(0, '127.0.0.1', done));
const patient = new OpenAI({ baseURL: `http://127.0.0.1:${proxy.address().port}/v1`, apiKey: 'none', maxRetries: 3 });
assert.equal((await patient.completions.create(ask)).choices.length, 1);
assert.equal(tries, 3, 'two refusals, then an answer');
tries = 0;
await assert.rejects(new OpenAI({ baseURL: patient.baseURL, apiKey: 'none', maxRetries: 0 }).completions.create(ask), OpenAI.RateLimitError);
/* A deadline says x-should-retry: false, and the SDK heeds it. */
tries = 2;
await assert.rejects(patient.completions.create({ ...ask, timeout_s: 1e-6 }), e => e.status === 504 && e.code === 'deadline_exceeded');
assert.equal(tries, 3, 'not tried again');
proxy.closeAllConnections();
proxy.close();

/* Abort: the daemon notices. */
const cancelled = async () => {
  const m = await (await fetch(base + '/metrics')).text();
  return [...m.matchAll(/ttmd_requests_cancelled_total\{[^}]*cause="disconnect"\} (\d+)/g)].reduce((s, x) => s + Number(x[1]), 0);
};
const before = await cancelled();
const stream = await client.completions.create({ ...ask, max_tokens: 480, ignore_eos: true, stream: true });
let seen = 0;
for await (const chunk of stream) { if (++seen === 3) stream.controller.abort(); }
assert.ok(seen >= 3);
for (let i = 0; i < 100 && await cancelled() === before; i++) await new Promise(done => setTimeout(done, 50));
assert.equal(await cancelled(), before + 1);
await assert.rejects(client.completions.create({ ...ask, max_tokens: 480, ignore_eos: true }, { timeout: 100 }), OpenAI.APIConnectionTimeoutError);
