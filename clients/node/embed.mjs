// Features of two texts from Node, and what an error says: node embed.mjs HOST:PORT ENCODER
import path from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const [address, encoder] = process.argv.slice(2);
const protos = path.join(path.dirname(fileURLToPath(import.meta.url)), "../../protos");
const definition = loader.loadSync("topwork/v1/encoders.proto", { includeDirs: [protos], enums: String });
const { Encoders } = grpc.loadPackageDefinition(definition).topwork.v1;
const server = new Encoders(address, grpc.credentials.createInsecure());
const rpc = new protobuf.Root();
rpc.resolvePath = (origin, target) => path.resolve(protos, target);
rpc.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);

function embed(name, texts) {
  const request = { settings: { encoder: name }, items: texts.map((text) => ({ text })) };
  return new Promise((resolve, reject) => server.embed(request, (error, reply) => (error ? reject(error) : resolve(reply))));
}

// The trailer holds a google.rpc.Status, and each of its details is an Any: the name of a message and its bytes.
function details(error) {
  const [trailer] = error.metadata.get("grpc-status-details-bin");
  const { details: packed } = rpc.lookupType("google.rpc.Status").decode(trailer);
  return packed.map(({ type_url: url, value }) => rpc.lookupType(url.split("/").pop()).decode(value).toJSON());
}

const [tap] = (await embed(encoder, ["a red bird", "a blue whale"])).features;
const rows = new Float32Array(Uint8Array.from(tap.rows.data).buffer);
console.log(JSON.stringify({ tap: tap.tap, shape: tap.rows.shape.map(Number), first: rows[0] }));
await embed("no-such-encoder", ["a"]).catch((error) => console.log(JSON.stringify({ code: error.code, details: details(error) })));
server.close();
