// Compiles the guest `gc` with MoonBit's compiler as npm has it: a web worker that
// answers comlink's messages, here called from node without a worker.
//
//     node compile.cjs MOONC_WORKER_JS SOURCES OUT.wasm
//
// writes OUT.wasm and OUT.wasm.map, whose sources are relative to the repository.

const fs = require("node:fs");
const path = require("node:path");

const PACKAGE = "sandscope/gc";
const REPOSITORY_PATH = "tests/guests/gc/src/";
const EXPORTS = ["run", "retain", "release"];

/** Loads the worker and returns a function that calls one of its functions. */
function loadWorker(file) {
  let receive;
  const pending = new Map();
  globalThis.addEventListener = (_type, listener) => (receive = listener);
  globalThis.removeEventListener = () => {};
  globalThis.postMessage = (reply) => pending.get(reply.id)(reply);
  require(path.resolve(file));
  return async (name, argument) => {
    const id = `${name}-${pending.size}`;
    const reply = await new Promise((resolve) => {
      pending.set(id, resolve);
      const argumentList = [{ type: "RAW", value: argument }];
      receive({ origin: "", data: { id, type: "APPLY", path: [name], argumentList } });
    });
    if (reply.type !== "RAW") throw new Error(`${name}: ${JSON.stringify(reply.value)}`);
    return reply.value;
  };
}

/** The custom section that names the source map; all its lengths are below 128. */
function sourceMapSection(url) {
  const name = "sourceMappingURL";
  const payload = [name.length, ...Buffer.from(name), url.length, ...Buffer.from(url)];
  return Buffer.from([0, payload.length, ...payload]);
}

/** The compiler always says `./main.wasm.map`, in the last section. */
function renameSourceMap(wasm, url) {
  const before = sourceMapSection("./main.wasm.map");
  const rest = wasm.subarray(0, wasm.length - before.length);
  if (!before.equals(wasm.subarray(rest.length))) throw new Error("no source map is named");
  return Buffer.concat([rest, sourceMapSection(url)]);
}

async function main([workerFile, sourceDir, output]) {
  const call = loadWorker(workerFile);
  const names = fs.readdirSync(sourceDir).filter((name) => name.endsWith(".mbt")).sort();
  const files = names.map((name) => [name, fs.readFileSync(path.join(sourceDir, name), "utf8")]);
  const common = { target: "wasm-gc", pkgSources: [`${PACKAGE}:gc:/`], noOpt: false };

  const { core, diagnostics } = await call("buildPackage", {
    ...common,
    mbtFiles: files,
    miFiles: [],
    indirectImportMiFiles: [],
    stdMiFiles: [],
    pkg: PACKAGE,
    isMain: true,
    errorFormat: "human",
    enableValueTracing: false,
  });
  for (const diagnostic of diagnostics) process.stderr.write(diagnostic);
  if (!core) throw new Error("the package does not compile");

  const { result, sourceMap } = await call("linkCore", {
    ...common,
    coreFiles: [core],
    main: PACKAGE,
    exportedFunctions: EXPORTS,
    outputFormat: "wasm",
    testMode: false,
    debug: true,
    sourceMap: true,
    sources: Object.fromEntries(files.map(([name, text]) => [`gc:/${name}`, text])),
    stopOnMain: false,
  });
  const map = JSON.parse(sourceMap);
  map.sources = map.sources.map((source) => source.replace("gc:/", REPOSITORY_PATH));
  fs.writeFileSync(output, renameSourceMap(result, `./${path.basename(output)}.map`));
  fs.writeFileSync(`${output}.map`, `${JSON.stringify(map)}\n`);
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`compile.cjs: ${error.message}\n`);
  process.exitCode = 1;
});
