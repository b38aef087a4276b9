// node-oidc-provider over TLS, as it comes: its tokens are kept in memory.
//
//   node server.mjs CONFIG     CONFIG is a JSON file: port, cert, key (files), clients, control
//
// With `control`, a second port: POST {client_id, redirect_uri, scope, challenge} to it and an
// authorization code comes back, as after a login that this server has no page for.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';

import Provider from 'oidc-provider';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const provider = new Provider(`https://127.0.0.1:${config.port}`, {
  clients: config.clients,
  scopes: ['openid', 'offline_access', 'email', 'profile'],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  pkce: { required: () => false },
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});

async function code({ client_id, redirect_uri, scope, challenge }) {
  const client = await provider.Client.find(client_id);
  const grant = new provider.Grant({ accountId: 'alice', clientId: client_id });
  grant.addOIDCScope(scope);
  const made = new provider.AuthorizationCode({
    accountId: 'alice',
    authTime: Math.floor(Date.now() / 1000),
    client,
    codeChallenge: challenge,
    codeChallengeMethod: challenge && 'S256',
    grantId: await grant.save(),
    redirectUri: redirect_uri,
    scope,
  });
  return made.save();
}

const tls = { cert: readFileSync(config.cert), key: readFileSync(config.key) };
createTlsServer(tls, provider.callback()).listen(config.port, '127.0.0.1');

if (config.control) {
  createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    try {
      response.end(await code(JSON.parse(text)));
    } catch (error) {
      response.writeHead(500).end(String(error.stack));
    }
  }).listen(config.control, '127.0.0.1');
}
