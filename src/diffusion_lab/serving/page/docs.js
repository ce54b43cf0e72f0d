/** The API for people to read, as openapi.json describes it. */

const $ = (id) => document.getElementById(id);

/** An element with classes and children; texts may hold `code`. */
function make(tag, classes, ...children) {
  const element = document.createElement(tag);
  element.className = classes;
  for (const child of children) {
    if (child instanceof Node) element.append(child);
    else {
      for (const [i, part] of String(child).split("`").entries()) element.append(i % 2 ? make("code", "", part) : part);
    }
  }
  return element;
}

const paragraphs = (text, classes = "") =>
  text.trim().split(/\n\s*\n/).map((part) => make("p", classes, part.replaceAll("\n", " ")));

let schemas = {};
const named = (schema) => (schema?.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema);

/** What values a schema takes, in a few words. */
function kind(schema) {
  const { type, enum: values, minimum, maximum, items, contentMediaType, contentEncoding } = named(schema);
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(kind).filter((text) => text !== "null").join(" or ");
  if (values) return values.join(", ");
  if (schema.const !== undefined) return String(schema.const);
  if (contentEncoding) return contentEncoding;
  if (contentMediaType) return "file";
  if (type === "array") return `list of ${kind(items)}`;
  if (minimum !== undefined && maximum !== undefined) return `${minimum} to ${maximum.toLocaleString("en")}`;
  return minimum === undefined ? (type ?? "anything") : `${type} from ${minimum}`;
}

function fields(rows) {
  const list = make("dl", "fields");
  for (const { name, schema, needed, description } of rows) {
    const usual = schema.default ?? null;
    const facts = [kind(schema), needed ? "required" : usual === null ? "" : `default ${usual}`];
    list.append(
      make("dt", "", make("code", "", name), " ", make("span", "aside", facts.filter(Boolean).join(" · "))),
      make("dd", "", description ?? ""),
    );
  }
  return list;
}

const properties = (schema) =>
  Object.entries(schema.properties ?? {}).map(([name, property]) => ({
    name,
    schema: property,
    needed: schema.required?.includes(name),
    description: property.description ?? named(property).description,
  }));

/** The request as a line for a shell. */
function curl(path, method, operation) {
  const line = [`curl ${new URL(path.slice(1), document.baseURI)}`];
  if (operation.security) line.push('-H "Authorization: Bearer $KEY"');
  if (method === "delete") line.push("-X DELETE");
  const form = operation.requestBody?.content["multipart/form-data"];
  for (const name of Object.keys(form?.schema.properties ?? {})) {
    if (["image", "mask"].includes(name)) line.push(`-F ${name}=@${name}.png`);
  }
  if (operation.responses[200]?.content?.["image/png"]) line.push("-o filled.png");
  const shown = make("pre", "", line.join(" \\\n  "));
  shown.tabIndex = 0; // where it is too wide it can be scrolled by keys
  shown.setAttribute("aria-label", "Command");
  return shown;
}

function operation(path, method, described) {
  const section = make("section", "operation", make("h3", "", described.summary));
  section.id = described.operationId;
  section.append(make("p", "route", make("span", `method ${method}`, method.toUpperCase()), make("code", "", path)));
  section.append(...paragraphs(described.description ?? ""), curl(path, method, described));
  const parameters = (described.parameters ?? []).map((p) => ({ ...p, needed: p.required }));
  if (parameters.length) section.append(make("h4", "", "Parameters"), fields(parameters));
  const body = Object.entries(described.requestBody?.content ?? {});
  if (body.length) {
    section.append(make("h4", "", `Fields, as ${body.map(([type]) => type).join(" or ")}`));
    section.append(fields(properties(named(body[0][1].schema))));
  }
  const list = make("dl", "fields answers");
  for (const [status, answer] of Object.entries(described.responses)) {
    const model = answer.content?.["application/json"]?.schema?.$ref?.split("/").at(-1);
    const types = Object.keys(answer.content ?? {}).filter((type) => type !== "application/json");
    const shape = [model, ...types].filter(Boolean).join(", ");
    list.append(make("dt", "", make("code", "", status)), make("dd", "", answer.description, " ", make("span", "aside", shape)));
  }
  section.append(make("h4", "", "Answers"), list);
  return section;
}

async function read() {
  const api = await (await fetch(new URL("openapi.json", document.baseURI))).json();
  schemas = api.components.schemas;
  $("version").textContent = `version ${api.info.version}`;
  $("version").hidden = false;
  const [first, ...rest] = paragraphs(api.info.description);
  first.className = "lead";
  $("about").replaceChildren(first, ...rest);
  const all = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => [path, method, described]),
  );
  for (const group of new Set(all.map(([, , { tags }]) => tags[0]))) {
    const members = all.filter(([, , { tags }]) => tags[0] === group);
    const links = members.map(([, , { operationId, summary }]) => {
      const link = make("a", "", summary);
      link.href = `docs#${operationId}`;
      return make("li", "", link);
    });
    $("contents").append(make("h2", "", group), make("ul", "", ...links));
    $("operations").append(make("h2", "group-title", group), ...members.map((each) => operation(...each)));
  }
  const shapes = Object.entries(schemas).filter(([, schema]) => schema.properties);
  $("operations").append(make("h2", "group-title", "shapes"));
  for (const [name, schema] of shapes) {
    const text = paragraphs(schema.description ?? "");
    $("operations").append(make("section", "operation", make("h3", "", name), ...text, fields(properties(schema))));
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

read().catch(() => {
  $("about").replaceChildren(make("p", "lead", "The service does not answer. Load this page again when it does."));
});
