// What a user of the TypeScript SDK writes: the how-to, then each entity made, read, changed,
// deleted.
//
//     node typescript_sdk.mts ABOUT
//
// Judged by tsc --strict and run by `run.py`, where the package is installed. Every line that
// begins with `ok` is one thing that was done; the last is the access token.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as sdk from "narthex-client";
import { createClient } from "narthex-client/client";

const POLL_MS = 50;
const CARRIED_MS = 20_000;

interface About {
  admin: string;
  tokens: string;
  upstream: string;
  cert: string;
  key: string;
  authority: string;
}

interface Answer<Data> {
  data?: Data | undefined;
  error?: unknown;
  response?: Response | undefined;
}

const about: About = JSON.parse(readFileSync(process.argv[2]!, "utf8"));
const client = createClient({ baseUrl: about.admin });
const tokens = createClient({ baseUrl: about.tokens });

async function must<Data>(asked: Promise<Answer<Data>>): Promise<Data> {
  const { data, error } = await asked;
  assert.ok(data !== undefined, JSON.stringify(error));
  return data;
}

async function deleted(asked: Promise<Answer<unknown>>): Promise<void> {
  assert.equal((await asked).response?.status, 204);
}

async function gone(asked: Promise<Answer<unknown>>): Promise<void> {
  assert.deepEqual((await asked).error, { message: "Not found" });
}

async function howTo(): Promise<sdk.OAuth2Credential> {
  assert.ok((await must(sdk.informationNode({ client }))).version);
  const service = { name: "example-websocket-service", url: about.upstream };
  await must(sdk.servicesCreate({ client, body: service }));
  const path = { parent: "example-websocket-service" };
  const route: sdk.RouteCreate = {
    name: "example-websocket-route",
    protocols: ["ws"],
    paths: ["/anything"],
  };
  await must(sdk.routesCreateOfService({ client, path, body: route }));
  const tokenRoute: sdk.RouteCreate = {
    name: "websocket-token-route",
    protocols: ["https"],
    paths: ["/token-route"],
    methods: ["POST"],
  };
  await must(sdk.routesCreate({ client, body: tokenRoute }));
  const config = {
    scopes: ["email", "profile"],
    global_credentials: true,
    enable_client_credentials: true,
  };
  await must(sdk.pluginsCreateOfService({ client, path, body: { name: "oauth2", config } }));
  const onRoute: sdk.PluginCreate = {
    name: "oauth2",
    route: { name: "websocket-token-route" },
    config,
  };
  await must(sdk.pluginsCreate({ client, body: onRoute }));
  await must(sdk.consumersCreate({ client, body: { username: "alex" } }));
  const app = { name: "TestApp", redirect_uris: ["http://localhost:8000/anything"] };
  const credential = await must(
    sdk.oauth2CreateOfConsumer({ client, path: { parent: "alex" }, body: app }),
  );
  await carried();
  console.log("ok how-to: configuration");
  return credential;
}

// Until a data plane has the newest configuration.
async function carried(): Promise<void> {
  for (const deadline = Date.now() + CARRIED_MS; Date.now() < deadline; ) {
    const { data } = await must(sdk.dataplanesList({ client }));
    if (data.some((row) => row.connected && row.sync_status === "normal")) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  assert.fail("no data plane with the newest configuration");
}

async function accessToken(app: sdk.OAuth2Credential): Promise<string> {
  const body: sdk.TokenJson = {
    grant_type: "client_credentials",
    client_id: app.client_id,
    client_secret: app.client_secret,
  };
  const answer = await issued(body);
  assert.equal(answer.token_type, "bearer");
  assert.equal(answer.expires_in, 7200);
  const refused = await sdk.oauthToken({ client: tokens, body: { ...body, client_secret: "no" } });
  assert.equal(refused.response?.status, 400);
  console.log("ok how-to: token");
  return answer.access_token;
}

// The answer with a token; 503 says to try again.
async function issued(body: sdk.TokenJson): Promise<sdk.TokenAnswer> {
  for (const deadline = Date.now() + CARRIED_MS; ; ) {
    const answer = await sdk.oauthToken({ client: tokens, body });
    if (answer.response?.status !== 503 || Date.now() > deadline) {
      assert.ok(answer.data !== undefined, JSON.stringify(answer.error));
      return answer.data;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function services(): Promise<void> {
  const body: sdk.ServiceCreate = { name: "round", host: "up.example" };
  const path = { key: "round" };
  const made = await must(sdk.servicesCreate({ client, body }));
  assert.equal(made.read_timeout, 60000);
  assert.deepEqual(await must(sdk.servicesGet({ client, path })), made);
  const page = await must(sdk.servicesList({ client, query: { size: 1000 } }));
  assert.ok(page.data.some((row) => row.id === made.id));
  assert.equal((await must(sdk.servicesUpsert({ client, path, body }))).id, made.id);
  const change: sdk.ServiceUpdate = { retries: 1, tags: ["round"] };
  const changed = await must(
    sdk.servicesUpdate({ client, path: { key: made.id }, body: change }),
  );
  assert.deepEqual([changed.retries, changed.tags, changed.host], [1, ["round"], "up.example"]);
  const twice = await sdk.servicesCreate({ client, body });
  assert.equal((twice.error as sdk.AdminError).code, 5);
  await deleted(sdk.servicesDelete({ client, path }));
  await gone(sdk.servicesGet({ client, path }));
}

async function routes(): Promise<void> {
  const body: sdk.RouteCreate = {
    name: "round",
    protocols: ["wss"],
    paths: ["/round"],
    service: { name: "example-websocket-service" },
  };
  const path = { key: "round" };
  const made = await must(sdk.routesCreate({ client, body }));
  assert.equal(made.path_handling, "v0");
  assert.deepEqual(await must(sdk.routesGet({ client, path: { key: made.id } })), made);
  assert.ok((await must(sdk.routesList({ client }))).data.some((row) => row.id === made.id));
  await must(sdk.routesUpsert({ client, path, body }));
  const change = { hosts: ["chat.example"], service: null };
  const changed = await must(sdk.routesUpdate({ client, path, body: change }));
  assert.deepEqual([changed.hosts, changed.service], [["chat.example"], null]);
  await deleted(sdk.routesDelete({ client, path }));
  await gone(sdk.routesGet({ client, path }));
}

async function consumers(): Promise<void> {
  const body = { username: "round", custom_id: "4711" };
  const path = { key: "round" };
  const made = await must(sdk.consumersCreate({ client, body }));
  assert.deepEqual(await must(sdk.consumersGet({ client, path })), made);
  const page = await must(sdk.consumersList({ client, query: { custom_id: "4711" } }));
  assert.deepEqual(page, { data: [made], next: null });
  await must(sdk.consumersUpsert({ client, path, body }));
  const changed = await must(sdk.consumersUpdate({ client, path, body: { custom_id: null } }));
  assert.deepEqual([changed.custom_id, changed.username], [null, "round"]);
  await deleted(sdk.consumersDelete({ client, path }));
  await gone(sdk.consumersGet({ client, path }));
}

async function plugins(): Promise<void> {
  const service = { name: "example-websocket-service" };
  const limits: sdk.PluginCreate = {
    name: "websocket-size-limit",
    service,
    config: { client_max_payload: 1024 },
  };
  const limit = await must(sdk.pluginsCreate({ client, body: limits }));
  assert.ok(limit.name === "websocket-size-limit");
  assert.equal(limit.config.client_max_payload, 1024);
  const body: sdk.PluginCreate = {
    name: "websocket-session",
    instance_name: "round",
    service,
    config: { allowed_origins: ["https://chat.example"] },
  };
  const path = { key: "round" };
  const made = await must(sdk.pluginsCreate({ client, body }));
  assert.deepEqual(await must(sdk.pluginsGet({ client, path })), made);
  const ids = (await must(sdk.pluginsList({ client }))).data.map((row) => row.id);
  assert.ok(ids.includes(limit.id) && ids.includes(made.id));
  await must(sdk.pluginsUpsert({ client, path, body }));
  const change: sdk.WebSocketSessionPluginUpdate = { config: { on_auth_failure: "auto" } };
  const changed = await must(sdk.pluginsUpdate({ client, path, body: change }));
  assert.ok(changed.name === "websocket-session");
  assert.equal(changed.config.on_auth_failure, "auto");
  assert.deepEqual(changed.config.allowed_origins, ["https://chat.example"]);
  for (const key of [limit.id, "round"]) {
    await deleted(sdk.pluginsDelete({ client, path: { key } }));
    await gone(sdk.pluginsGet({ client, path: { key } }));
  }
}

async function oauth2Credentials(): Promise<void> {
  const path = { key: "round-app" };
  const body = { name: "round", client_id: "round-app" };
  const made = await must(
    sdk.oauth2CreateOfConsumer({ client, path: { parent: "alex" }, body }),
  );
  assert.ok(made.client_secret);
  assert.deepEqual(await must(sdk.oauth2Get({ client, path })), made);
  const page = await must(sdk.oauth2List({ client, query: { client_id: "round-app" } }));
  assert.deepEqual(page.data, [made]);
  const whole = { name: "round", consumer: { username: "alex" } };
  assert.equal((await must(sdk.oauth2Upsert({ client, path, body: whole }))).id, made.id);
  const change = { redirect_uris: ["https://app.example/callback"] };
  const changed = await must(sdk.oauth2Update({ client, path, body: change }));
  assert.deepEqual(changed.redirect_uris, change.redirect_uris);
  await deleted(sdk.oauth2Delete({ client, path }));
  await gone(sdk.oauth2Get({ client, path }));
}

async function oauth2Tokens(app: sdk.OAuth2Credential): Promise<void> {
  const body = { credential: { client_id: app.client_id }, expires_in: 60 };
  const made = await must(sdk.oauth2TokensCreate({ client, body }));
  const path = { key: made.id };
  assert.ok(made.access_token, "readable once");
  const read = await must(sdk.oauth2TokensGet({ client, path }));
  assert.equal(read.access_token, null);
  const page = await must(sdk.oauth2TokensList({ client }));
  assert.ok(page.data.some((row) => row.id === made.id));
  await must(sdk.oauth2TokensUpsert({ client, path, body }));
  const changed = await must(sdk.oauth2TokensUpdate({ client, path, body: { scope: "email" } }));
  assert.equal(changed.scope, "email");
  await deleted(sdk.oauth2TokensDelete({ client, path }));
  await gone(sdk.oauth2TokensGet({ client, path }));
}

async function certificatesAndSnis(): Promise<void> {
  const body = { cert: about.cert, key: about.key };
  const made = await must(sdk.certificatesCreate({ client, body }));
  const path = { key: made.id };
  assert.deepEqual(await must(sdk.certificatesGet({ client, path })), made);
  const page = await must(sdk.certificatesList({ client }));
  assert.ok(page.data.some((row) => row.id === made.id));
  await must(sdk.certificatesUpsert({ client, path, body }));
  const tagged = { tags: ["round"] };
  const changed = await must(sdk.certificatesUpdate({ client, path, body: tagged }));
  assert.deepEqual(changed.tags, ["round"]);

  const name = { name: "round.example", certificate: { id: made.id } };
  const at = { key: "round.example" };
  const sni = await must(sdk.snisCreate({ client, body: name }));
  assert.deepEqual(await must(sdk.snisGet({ client, path: at })), sni);
  assert.ok((await must(sdk.snisList({ client }))).data.some((row) => row.id === sni.id));
  await must(sdk.snisUpsert({ client, path: at, body: name }));
  const changedSni = await must(sdk.snisUpdate({ client, path: at, body: tagged }));
  assert.deepEqual(changedSni.tags, ["round"]);
  await deleted(sdk.snisDelete({ client, path: at }));
  await gone(sdk.snisGet({ client, path: at }));

  await deleted(sdk.certificatesDelete({ client, path }));
  await gone(sdk.certificatesGet({ client, path }));
}

async function caCertificates(): Promise<void> {
  const body = { cert: about.authority };
  const made = await must(sdk.caCertificatesCreate({ client, body }));
  const path = { key: made.id };
  assert.ok(made.cert_digest);
  assert.deepEqual(await must(sdk.caCertificatesGet({ client, path })), made);
  const page = await must(sdk.caCertificatesList({ client }));
  assert.ok(page.data.some((row) => row.id === made.id));
  await must(sdk.caCertificatesUpsert({ client, path, body }));
  const change = { tags: ["round"] };
  const changed = await must(sdk.caCertificatesUpdate({ client, path, body: change }));
  assert.deepEqual(changed.tags, ["round"]);
  await deleted(sdk.caCertificatesDelete({ client, path }));
  await gone(sdk.caCertificatesGet({ client, path }));
}

async function upstreamsAndTargets(): Promise<void> {
  const body: sdk.UpstreamCreate = { name: "round.upstream" };
  const path = { key: "round.upstream" };
  const made = await must(sdk.upstreamsCreate({ client, body }));
  assert.deepEqual([made.slots, made.algorithm], [10000, "round-robin"]);
  assert.deepEqual(await must(sdk.upstreamsGet({ client, path })), made);
  assert.ok((await must(sdk.upstreamsList({ client }))).data.some((row) => row.id === made.id));
  await must(sdk.upstreamsUpsert({ client, path, body }));
  const change = { host_header: "up.example" };
  const changed = await must(sdk.upstreamsUpdate({ client, path, body: change }));
  assert.equal(changed.host_header, "up.example");

  const parent = "round.upstream";
  const to: sdk.TargetOfUpstreamCreate = { target: "10.0.0.7:8009" };
  const target = await must(sdk.targetsCreateOfUpstream({ client, path: { parent }, body: to }));
  assert.equal(target.weight, 100);
  const at = { parent, key: target.id };
  assert.deepEqual(await must(sdk.targetsGetOfUpstream({ client, path: at })), target);
  const rows = await must(sdk.targetsListOfUpstream({ client, path: { parent } }));
  assert.deepEqual(rows.data, [target]);
  await must(sdk.targetsUpsertOfUpstream({ client, path: at, body: to }));
  const off = await must(sdk.targetsUpdateOfUpstream({ client, path: at, body: { weight: 0 } }));
  assert.equal(off.weight, 0);
  await deleted(sdk.targetsDeleteOfUpstream({ client, path: at }));
  await gone(sdk.targetsGetOfUpstream({ client, path: at }));

  await deleted(sdk.upstreamsDelete({ client, path }));
  await gone(sdk.upstreamsGet({ client, path }));
}

async function apply(): Promise<void> {
  const text = '_format_version: "3.0"\nconsumers:\n- username: from-a-file\n';
  const applied = await must(
    sdk.configApplyConfig({ client, body: new Blob([text]), bodySerializer: null }),
  );
  const [change, ...more] = applied.changes;
  assert.deepEqual([change?.change, change?.type, change?.name, more.length], [
    "created",
    "consumers",
    "from-a-file",
    0,
  ]);
}

const app = await howTo();
const token = await accessToken(app);
for (const [name, round] of Object.entries({
  services,
  routes,
  consumers,
  plugins,
  oauth2: oauth2Credentials,
  oauth2_tokens: () => oauth2Tokens(app),
  "certificates, snis": certificatesAndSnis,
  ca_certificates: caCertificates,
  "upstreams, targets": upstreamsAndTargets,
  config: apply,
})) {
  await round();
  console.log(`ok ${name}`);
}
console.log(token);
