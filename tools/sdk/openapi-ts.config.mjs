// Of @hey-api/openapi-ts; `generate.py` says where to read and to write.
export default {
  input: process.env.NARTHEX_OPENAPI,
  output: { path: process.env.NARTHEX_SDK, module: { extension: ".js" } },
  plugins: ["@hey-api/typescript", "@hey-api/sdk", "@hey-api/client-fetch"],
  logs: { level: "warn", file: false },
};
