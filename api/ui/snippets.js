// The lines of code that do what the page does.

import { address } from "./client.js";

/** A text as one word of a shell. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? String(text) : `'${String(text).replaceAll("'", "'\\''")}'`);
const python = (value) => JSON.stringify(value).replace(/^true$/, "True");

function fields(request) {
  return Object.entries(request).map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
}

/** Lines for curl. `source` has a `url` or a `name`. */
export function curl(source, request, needsKey) {
  const key = needsKey ? `  -H "x-api-key: $API_KEY" \\\n` : "";
  if (source.url) {
    const body = JSON.stringify({ image_url: source.url, ...request });
    return `curl ${address("jobs")} \\\n${key}  -H 'content-type: application/json' \\\n  -d ${quoted(body)}\n\n` +
      `# it answers with the job's uuid; then, until its status is completed:\ncurl ${needsKey ? '-H "x-api-key: $API_KEY" ' : ""}${address("jobs/")}UUID`;
  }
  const { resize, ...rest } = request;
  const form = fields(rest).map(([name, value]) => ` \\\n  -F ${quoted(`${name}=${value}`)}`).join("");
  return `curl ${address(resize ? `segment/${resize}` : "segment")} \\\n${key}  -F ${quoted(`image=@${source.name}`)}${form}`;
}

/** Lines for Python with httpx. */
export function httpx(source, request, needsKey) {
  const key = needsKey ? `    headers={"x-api-key": os.environ["API_KEY"]},\n` : "";
  const head = needsKey ? "import os\n\nimport httpx\n\n" : "import httpx\n\n";
  if (source.url) {
    const body = Object.entries({ image_url: source.url, ...request }).map(([name, value]) => `        ${python(name)}: ${python(value)},\n`).join("");
    const client = needsKey ? `headers={"x-api-key": os.environ["API_KEY"]}` : "";
    return `${head.replace("import httpx", "import time\n\nimport httpx").replace("import os\n\nimport time", "import os\nimport time")}` +
      `client = httpx.Client(${client})\njob = client.post(\n    ${python(address("jobs"))},\n    json={\n${body}    },\n).raise_for_status().json()\n` +
      `while job["status"] in ("queued", "processing"):\n    time.sleep(0.5)\n    job = client.get(f"${address("jobs/")}{job['uuid']}").raise_for_status().json()\n${LOOP.replace("answer", "job")}`;
  }
  const { resize, ...rest } = request;
  const form = fields(rest).map(([name, value]) => `${python(name)}: ${python(value)}`).join(", ");
  return `${head}answer = httpx.post(\n    ${python(address(resize ? `segment/${resize}` : "segment"))},\n    files={"image": open(${python(source.name)}, "rb")},\n` +
    `    data={${form}},\n${key}    timeout=120,\n).raise_for_status().json()\n${LOOP}`;
}

const LOOP = `for segment in answer["segments"]:\n    print(segment["label"], segment["area"], segment["crop_url"])`;
