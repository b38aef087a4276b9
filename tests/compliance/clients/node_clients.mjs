// oauth4webapi and openid-client, each with the grants that it knows.  Run by run.py.
//
//   NODE_EXTRA_CA_CERTS=CA node node_clients.mjs ABOUT     what `judged.Judged.about` says, a file
//
// Prints `ok LIBRARY INSTANCE: what it did`, or `FAILED` for `ok` and why.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import * as oauth from 'oauth4webapi';
import * as openid from 'openid-client';
import WebSocket from 'ws';

const about = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const ca = readFileSync(about.ca);

const clientKey = async () => {
  const { kid, alg, use, ...jwk } = about.keyed.jwk;
  const how = { name: 'ECDSA', namedCurve: 'P-256' };
  return { key: await crypto.subtle.importKey('jwk', jwk, how, false, ['sign']), kid };
};

// What the back end does once a browser came with these parameters and the user agreed.
async function logIn(place, params) {
  const body = new URLSearchParams(params);
  body.set('provision_key', about.provision_key);
  body.set('authenticated_userid', 'alice');
  const answer = await fetch(`${place.issuer}/oauth2/authorize`, { method: 'POST', body });
  const said = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(said));
  return new URL(said.redirect_uri);
}

// Resolves with the echo, rejects with the status of a refusal.
function talk(place, token) {
  const headers = { Authorization: `Bearer ${token}` };
  const socket = new WebSocket(place.websocket, { ca, headers });
  return new Promise((resolve, reject) => {
    const ended = setTimeout(() => reject(new Error('no echo within 10 s')), 10_000);
    socket.on('open', () => socket.send('hello'));
    socket.on('message', (data) => {
      clearTimeout(ended);
      socket.close();
      data.toString() === 'hello' ? resolve() : reject(new Error(`not an echo: ${data}`));
    });
    socket.on('unexpected-response', (_request, answer) => {
      clearTimeout(ended);
      socket.terminate();
      reject(Object.assign(new Error(`status ${answer.statusCode}`), { status: answer.statusCode }));
    });
    socket.on('error', reject);
  });
}

const isRefused = (place, token) =>
  assert.rejects(talk(place, token), (error) => error.status === 401);

// ---- oauth4webapi ----

async function discover(place) {
  const issuer = new URL(place.issuer);
  const answer = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2' });
  return oauth.processDiscoveryResponse(issuer, answer);
}

// RFC 9068 §4, as a resource server that uses this library does it.
async function validateJwt(as, place, token) {
  const headers = { Authorization: `Bearer ${token}` };
  const request = new Request(`${place.issuer}/anything`, { headers });
  const claims = await oauth.validateJwtAccessToken(as, request, place.issuer);
  assert.equal(claims.iss, place.issuer);
  return claims;
}

const web = {
  async 'client_credentials'(place, as, client, auth) {
    const params = new URLSearchParams({ scope: 'email' });
    const answer = await oauth.clientCredentialsGrantRequest(as, client, auth, params);
    const token = await oauth.processClientCredentialsResponse(as, client, answer);
    if (place.token_format === 'jwt') {
      const claims = await validateJwt(as, place, token.access_token);
      assert.equal(claims.client_id, client.client_id);
    }
    await talk(place, token.access_token);
  },

  async 'authorization_code with PKCE, refresh, introspection, revocation'(place, as, client, auth) {
    const verifier = oauth.generateRandomCodeVerifier();
    const state = oauth.generateRandomState();
    const back = await logIn(place, {
      client_id: client.client_id,
      code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      redirect_uri: about.redirect_uri,
      response_type: 'code',
      scope: 'email',
      state,
    });
    const params = oauth.validateAuthResponse(as, client, back, state);
    const answer = await oauth.authorizationCodeGrantRequest(
      as, client, auth, params, about.redirect_uri, verifier,
    );
    const first = await oauth.processAuthorizationCodeResponse(as, client, answer);
    await talk(place, first.access_token);
    const renewed = await oauth.refreshTokenGrantRequest(as, client, auth, first.refresh_token);
    const second = await oauth.processRefreshTokenResponse(as, client, renewed);
    await isRefused(place, first.access_token);
    await talk(place, second.access_token);
    if (auth.public) return;
    const inspect = async () => {
      const said = await oauth.introspectionRequest(as, client, auth, second.access_token);
      return oauth.processIntrospectionResponse(as, client, said);
    };
    const said = await inspect();
    assert.equal(said.active, true);
    assert.equal(said.client_id, client.client_id);
    assert.equal(said.scope, 'email');
    const gone = await oauth.revocationRequest(as, client, auth, second.access_token);
    await oauth.processRevocationResponse(gone);
    assert.deepEqual(await inspect(), { active: false });
    await isRefused(place, second.access_token);
  },

  async 'a wrong secret is told apart'(place, as, client) {
    const auth = oauth.ClientSecretBasic('wrong');
    const answer = await oauth.clientCredentialsGrantRequest(as, client, auth, new URLSearchParams());
    // The library reads the challenge: one that RFC 9110 does not know would be another error.
    await assert.rejects(
      oauth.processClientCredentialsResponse(as, client, answer),
      (error) => error instanceof oauth.WWWAuthenticateChallengeError
        && error.status === 401 && error.cause[0].scheme === 'basic',
    );
  },

  async 'protected resource metadata (RFC 9728)'(place, as) {
    const resource = new URL(place.issuer);
    const answer = await oauth.resourceDiscoveryRequest(resource);
    const found = await oauth.processResourceDiscoveryResponse(resource, answer);
    assert.deepEqual(found.authorization_servers, [as.issuer]);
  },
};

async function oauth4webapi(place, run) {
  const as = await discover(place);
  const of = (who) => ({ client_id: about[who].client_id });
  const keyed = await clientKey();
  const { confidential, hashed } = about;
  const [grant, code, wrong, resource] = Object.keys(web);
  const does = (name, what, ...args) => run(what ?? name, () => web[name](place, as, ...args));
  await does(grant, `${grant}, client_secret_basic`,
    of('confidential'), oauth.ClientSecretBasic(confidential.client_secret));
  await does(grant, `${grant}, client_secret_post, hashed secret`,
    of('hashed'), oauth.ClientSecretPost(hashed.client_secret));
  await does(grant, `${grant}, private_key_jwt`, of('keyed'), oauth.PrivateKeyJwt(keyed));
  await does(code, code, of('confidential'), oauth.ClientSecretBasic(confidential.client_secret));
  await does(code, `${code}, private_key_jwt`, of('keyed'), oauth.PrivateKeyJwt(keyed));
  await does(code, 'authorization_code with PKCE, refresh, of a public client',
    of('public'), Object.assign(oauth.None(), { public: true }));
  await does(wrong, wrong, of('confidential'));
  await does(resource);
}

// ---- openid-client ----

async function configuration(place, who, auth) {
  const { client_id, client_secret } = about[who];
  const options = { algorithm: 'oauth2' };
  return openid.discovery(new URL(place.issuer), client_id, client_secret, auth, options);
}

const library = {
  async client_credentials(place, config) {
    const token = await openid.clientCredentialsGrant(config, { scope: 'email' });
    assert.ok(token.expiresIn() > 0);
    await talk(place, token.access_token);
  },

  async 'authorization_code with PKCE, refresh, introspection, revocation'(place, config, isPublic) {
    const pkceCodeVerifier = openid.randomPKCECodeVerifier();
    const expectedState = openid.randomState();
    const back = await logIn(place, {
      client_id: config.clientMetadata().client_id,
      code_challenge: await openid.calculatePKCECodeChallenge(pkceCodeVerifier),
      code_challenge_method: 'S256',
      redirect_uri: about.redirect_uri,
      response_type: 'code',
      scope: 'email',
      state: expectedState,
    });
    const checks = { pkceCodeVerifier, expectedState };
    const first = await openid.authorizationCodeGrant(config, back, checks);
    const second = await openid.refreshTokenGrant(config, first.refresh_token);
    await isRefused(place, first.access_token);
    await talk(place, second.access_token);
    if (isPublic) return;
    const said = await openid.tokenIntrospection(config, second.access_token);
    assert.equal(said.active, true);
    await openid.tokenRevocation(config, second.refresh_token);
    assert.equal((await openid.tokenIntrospection(config, second.access_token)).active, false);
    await isRefused(place, second.access_token);
    await assert.rejects(
      openid.authorizationCodeGrant(config, back, checks),
      (error) => error.error === (place.profile === 'strict' ? 'invalid_grant' : 'invalid_request'),
    );
  },

  async password(place, config) {
    const token = await openid.genericGrantRequest(config, 'password', {
      authenticated_userid: 'alice',
      provision_key: about.provision_key,
      scope: 'email',
    });
    await talk(place, token.access_token);
  },
};

async function openidClient(place, run) {
  const [grant, code, password] = Object.keys(library);
  const key = openid.PrivateKeyJwt(await clientKey());
  const does = async (name, what, who, auth, ...args) => run(what, async () => (
    library[name](place, await configuration(place, who, auth), ...args)));
  await does(grant, `${grant}, client_secret_basic`, 'confidential', openid.ClientSecretBasic());
  await does(grant, `${grant}, client_secret_post`, 'hashed', openid.ClientSecretPost());
  await does(grant, `${grant}, private_key_jwt`, 'keyed', key);
  await does(code, code, 'confidential', openid.ClientSecretPost());
  await does(code, 'authorization_code with PKCE, refresh, of a public client', 'public',
    openid.None(), true);
  if (place.profile !== 'strict') { // which has no password grant: RFC 9700 §2.4
    await does(password, password, 'confidential', openid.ClientSecretBasic());
  }
}

// ---- all of it ----

let failed = false;
const libraries = { oauth4webapi, 'openid-client': openidClient };
for (const place of about.instances) {
  for (const [name, all] of Object.entries(libraries)) {
    const say = (word, what, why = '') => console.log(`${word} ${name} ${place.name}: ${what}${why}`);
    const run = async (what, act) => {
      try {
        await act();
        say('ok', what);
      } catch (error) {
        failed = true;
        say('FAILED', what, `: ${error}`);
        console.error(error);
      }
    };
    await run('metadata (RFC 8414)', () => discover(place));
    await all(place, run).catch((error) => {
      failed = true;
      say('FAILED', 'before the rest', `: ${error}`);
    });
  }
}
process.exit(failed ? 1 : 0);
