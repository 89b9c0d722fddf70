/* The page as a person uses it, in Chromium: every view, in light and dark, wide and at 400 pixels. In each of
 * them no error may reach the console and no request may leave the page's origin. */
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const base = process.env.E2E_BASE + '/';
const shots = process.env.E2E_SHOTS; /* a directory: pictures of all views are left there */
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const context = await chromium.launchPersistentContext(mkdtempSync(join(process.env.E2E_WORK, 'chromium-')),
  { executablePath: process.env.CHROMIUM, args: flags, viewport: { width: 1180, height: 860 } });
const page = context.pages()[0] ?? await context.newPage();
page.setDefaultTimeout(30000);

const faults = [];
let origin = base;
let forgiven = () => false;
page.on('console', m => { if (m.type() === 'error' && !forgiven(m)) faults.push('console: ' + m.text() + ' ' + m.location().url); });
page.on('pageerror', e => faults.push('error: ' + e.message));
context.on('request', r => { if (!r.url().startsWith(origin) && !/^(data|about|blob):/.test(r.url())) faults.push('request to ' + r.url()); });
const clean = what => { assert.deepEqual(faults, [], what); };
const shot = async name => { if (shots) await page.screenshot({ path: join(shots, name + '.png'), fullPage: true }); };

const open = async () => {
  await page.goto('about:blank');
  await page.goto(base);
  await page.waitForSelector('#state[data-state=ready]');
  await page.waitForSelector('#go:not(:disabled)');
};
const set = (id, v) => page.$eval('#' + id, (e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }, String(v));
const text = selector => page.$eval(selector, e => e.textContent);
const end = () => page.waitForSelector('#sheet[data-end]');
const fits = async () => assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing sticks out');

const tests = {
  async 'streams a completion'() {
    await open();
    await set('max_tokens', 40);
    await set('seed', 5);
    await page.fill('#prompt', 'Once upon a time');
    await page.focus('#prompt');
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('#tokens .token');
    const early = await page.$$eval('#tokens .token', l => l.length);
    await end();
    const n = await page.$$eval('#tokens .token', l => l.length);
    assert.ok(early < n && n > 5, 'tokens came one by one: ' + early + ', then ' + n);
    const facts = await text('#facts');
    assert.match(facts, /first token[\d.]+ m?s/);
    assert.match(facts, /tokens\/s[\d.,]+/);
    assert.match(facts, /seed5/);
    const first = await text('#tokens');
    await page.click('#go');
    await end();
    assert.equal(await text('#tokens'), first, 'the same seed writes the same text');
  },

  async 'stops it'() {
    await set('max_tokens', 450);
    await page.click('#go');
    await page.waitForFunction(() => document.querySelectorAll('#tokens .token').length > 3);
    await page.keyboard.press('Escape');
    await page.waitForSelector('#sheet[data-end=stopped]');
    assert.match(await text('#facts'), /endstopped/);
    assert.ok(await page.$$eval('#tokens .token', l => l.length) < 450);
    await page.waitForSelector('#go:not(:disabled)');
    const metrics = await (await fetch(base + 'metrics')).text();
    assert.match(metrics, /requests_cancelled_total\{phase="decode",cause="disconnect"\} [1-9]/, 'the server has stopped, too');
  },

  async 'goes on'() {
    await set('max_tokens', 5);
    const before = await text('#text');
    await page.click('#more');
    await end();
    assert.equal(await text('#text-prompt'), before);
  },

  async 'shows a token'() {
    await page.hover('#tokens .token >> nth=1');
    await page.waitForSelector('#card:not([hidden])');
    assert.match(await text('#card'), /%.*bits of surprise/s);
    assert.ok(await page.$$eval('#card .alt', l => l.length) >= 6);
    await page.mouse.move(1, 1);
    await page.waitForSelector('#card', { state: 'hidden' });
    await page.focus('#tokens .token');
    await page.keyboard.press('ArrowRight');
    await page.waitForSelector('#card:not([hidden])');
    assert.equal(await page.evaluate(() => [...document.querySelectorAll('#tokens .token')].indexOf(document.activeElement)), 1);
    await page.keyboard.press('Escape');
    await page.waitForSelector('#card', { state: 'hidden' });
  },

  async 'writes on with another token'() {
    await page.click('#tokens .token >> nth=1');
    const other = await page.waitForSelector('#card button.alt:not(:disabled)');
    await other.click();
    await end();
    assert.ok(await page.$$eval('#tokens .token', l => l.length) >= 1);
  },

  async 'tells of errors'() {
    await set('max_tokens', 5);
    await page.click('summary');
    await page.fill('#top_k', '3');
    await page.$eval('#min_p', e => { e.value = '7'; });
    forgiven = m => m.text().includes('400');
    await page.click('#go');
    await page.waitForSelector('#write-error:not([hidden])');
    assert.match(await text('#write-error'), /'min_p' is 7/);
    await page.fill('#min_p', '');
    await page.click('#go');
    await end();
    forgiven = () => false;
    assert.ok(await page.isHidden('#write-error'));
  },

  async 'scores a text'() {
    await page.click('#tab-score');
    await page.fill('#score-text', 'One two three, naïve ☃ text.');
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('#score-sheet:not([hidden])');
    assert.equal(await text('#score-tokens'), 'One two three, naïve ☃ text.');
    const shown = parseFloat((await text('#score-numbers .lead dd')).replace(/,/g, ''));
    const { total } = await (await fetch(base + 'v1/perplexity', { method: 'POST', body: JSON.stringify({ input: 'One two three, naïve ☃ text.' }) })).json();
    assert.ok(Math.abs(shown / total.perplexity - 1) < 1e-3, shown + ' is ' + total.perplexity);
    assert.ok(await page.$$eval('#score-tokens .token', l => l.filter(t => t.style.backgroundColor).length > 5), 'tokens are tinted');
    await page.hover('#score-tokens .token >> nth=3');
    await page.waitForSelector('#card .alt');
    await page.mouse.move(1, 1);
  },

  async 'shows the model'() {
    await page.click('#tab-model');
    const m = (await (await fetch(base + 'v1/models/e2e')).json()).meta;
    assert.match(await text('#model-numbers'), new RegExp('layers' + m.n_layer));
    assert.equal(await page.$$eval('#model-bars .bar', l => l.length), 6);
    assert.equal((await page.$$('#chains .chain')).length > 0, m.n_ttm_layers > 0);
    if (m.n_ttm_layers) assert.match(await text('#chains'), new RegExp(m.ttm_layers[0].plan.decode.method.split(' ')[0]));
  },

  async 'shows the server'() {
    await page.click('#tab-server');
    await page.waitForFunction(() => document.querySelectorAll('#charts path.l1').length >= 8);
    await fetch(base + 'v1/completions', { method: 'POST', body: JSON.stringify({ prompt: 'Once', max_tokens: 60, ignore_eos: true }) });
    await page.waitForFunction(() => /[1-9]/.test(document.querySelector('#server-numbers .lead dd').textContent));
    await page.waitForFunction(() => [...document.querySelectorAll('#charts path.l1')].filter(p => p.getAttribute('d').includes('L')).length >= 4);
  },

  async 'is used by keys'() {
    await page.focus('#tab-server');
    await page.keyboard.press('ArrowRight');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'tab-write');
    await page.keyboard.press('End');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'tab-server');
    assert.equal(await page.getAttribute('#tab-server', 'aria-selected'), 'true');
    await page.keyboard.press('Home');
    assert.ok(await page.isVisible('#prompt'));
  },

  async 'sends a key, and keeps it for the tab only'() {
    await page.click('#key-button');
    await page.fill('#key', 'secret-7');
    const asked = page.waitForRequest(r => r.url().endsWith('/health'));
    await page.keyboard.press('Enter');
    assert.equal((await asked).headers().authorization, 'Bearer secret-7');
    assert.equal(await page.evaluate(() => localStorage.length + ' ' + sessionStorage.getItem('ttmd.key')), '0 secret-7');
    await page.click('#key-button');
    await page.click('#key-clear');
    assert.equal(await page.evaluate(() => sessionStorage.getItem('ttmd.key')), null);
  },

  async 'asks for a key where one is needed'() {
    forgiven = m => m.text().includes('401');
    origin = process.env.E2E_LOCKED + '/';
    await page.goto(origin);
    await page.waitForSelector('#keybox:not([hidden])');
    assert.equal(await text('#state'), 'locked');
    assert.ok(await page.isDisabled('#go'));
    await page.fill('#key', process.env.E2E_KEY);
    await page.keyboard.press('Enter');
    await page.waitForSelector('#go:not(:disabled)');
    forgiven = () => false;
    await set('max_tokens', 5);
    await page.click('#go');
    await end();
    assert.ok(await page.$$eval('#tokens .token', l => l.length) > 0);
    await page.click('#tab-server');
    await page.waitForFunction(() => document.querySelectorAll('#charts path.l1').length >= 8);
    origin = base;
  },

  async 'waits for the model'() {
    let progress = 0;
    forgiven = m => m.text().includes('503');
    await page.route('**/health', r => (progress += 0.4) < 1
      ? r.fulfill({ status: 503, contentType: 'application/json', body: JSON.stringify({ status: 'loading', progress, queue: {} }) })
      : r.continue());
    await page.goto('about:blank');
    await page.goto(base);
    await page.waitForSelector('#loading:not([hidden])');
    assert.match(await text('#state'), /loading \d+ %/);
    assert.ok(await page.isDisabled('#go'));
    await shot('loading');
    await page.waitForSelector('#go:not(:disabled)');
    assert.ok(await page.isHidden('#loading'));
    await page.unroute('**/health');
    forgiven = () => false;
  },

  async 'has a theme of its own choice'() {
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await page.emulateMedia({ colorScheme: 'light' });
    const light = await background();
    await page.emulateMedia({ colorScheme: 'dark' });
    await page.waitForSelector('html[data-theme=dark]');
    const dark = await background();
    assert.notEqual(light, dark);
    await page.click('#theme');
    assert.equal(await background(), light, 'light, whatever the system says');
    await page.click('#theme');
    await page.emulateMedia({ colorScheme: 'light' });
    assert.equal(await background(), dark);
    await page.click('#theme');
    await page.waitForSelector('html[data-theme=light]');
    assert.equal(await background(), light);
  },

  async 'names every control'() {
    const nameless = await page.$$eval('button, input, select, textarea, [role=tabpanel], svg[role=img]', l => l.filter(e => {
      const label = e.labels && e.labels.length ? e.labels[0].textContent : '';
      return !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || label.trim() || e.textContent.trim());
    }).map(e => e.outerHTML.slice(0, 80)));
    assert.deepEqual(nameless, []);
  },
};

/* WCAG contrast of text colours on their background. */
const contrast = () => page.evaluate(() => {
  const style = getComputedStyle(document.documentElement);
  const lum = name => {
    const h = style.getPropertyValue(name).trim().slice(1);
    const c = [0, 2, 4].map(i => parseInt(h.slice(i, i + 2), 16) / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
  };
  const ratio = (a, b) => (Math.max(lum(a), lum(b)) + 0.05) / (Math.min(lum(a), lum(b)) + 0.05);
  const pairs = [['--ink', '--paper'], ['--ink', '--card'], ['--soft', '--paper'], ['--soft', '--card'], ['--soft', '--wash'], ['--accent', '--card'],
    ['--accent-ink', '--accent'], ['--second', '--card'], ['--bad', '--card']];
  return pairs.filter(([a, b]) => ratio(a, b) < 4.5).map(([a, b]) => a + ' on ' + b + ': ' + ratio(a, b).toFixed(2));
});

for (const scheme of ['light', 'dark'])
  for (const width of [1180, 400])
    tests[`looks right, ${scheme}, ${width} wide`] = async () => {
      await page.emulateMedia({ colorScheme: scheme });
      await page.setViewportSize({ width, height: 860 });
      await open();
      assert.deepEqual(await contrast(), []);
      await set('max_tokens', 60);
      await set('seed', 11);
      await page.click('#go');
      await end();
      await fits();
      await page.hover('#tokens .token >> nth=4');
      await shot(`${scheme}-${width}-write`);
      await page.mouse.move(1, 1);
      await page.click('#tab-score');
      await page.click('#score-go');
      await page.waitForSelector('#score-sheet:not([hidden])');
      await fits();
      await shot(`${scheme}-${width}-score`);
      await page.click('#tab-model');
      await fits();
      await shot(`${scheme}-${width}-model`);
      await page.click('#tab-server');
      await page.waitForFunction(() => document.querySelectorAll('#charts path.l1').length >= 8);
      await fits();
      await shot(`${scheme}-${width}-server`);
    };

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    clean(name);
    console.log('  ok    ' + name);
  } catch (e) {
    failed++;
    console.log('  FAIL  ' + name + '\n' + String(e.stack ?? e).split('\n').slice(0, 8).map(l => '        ' + l).join('\n'));
    faults.length = 0;
    forgiven = () => false;
  }
}
await context.close();
process.exitCode = failed ? 1 : 0;
