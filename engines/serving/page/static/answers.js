// What a model says of an image, or of tensors, in its card; and how to ask it from elsewhere.

const LONGEST = 640; // pixels of the marked image's longer side
const MOST_NUMBERS = 4096; // of a request that is written out
const LEAST_LETTER = 11;

// ---------------------------------------------------------------- answers

export function hue(number, alpha = 1) {
  return `hsl(${((number * 0.618034) % 1) * 360} 85% 40% / ${alpha})`;
}

const percent = (share) => `${(share * 100).toFixed(1)} %`;

// The list of an answer, and for boxes and masks the image with them on it.
export async function showAnswer(card, answer, file) {
  const rows = answer.predictions.map((each) => {
    const label = document.createElement("span");
    label.textContent = each.label === String(each.number) ? `Class ${each.number}` : `${each.label} (${each.number})`;
    const share = document.createElement("span");
    share.className = "number";
    share.textContent = percent(each.score);
    const [row, track, full] = ["li", "div", "div"].map((tag) => document.createElement(tag));
    track.className = "track";
    full.style.width = percent(each.score).replace(" ", "");
    if (answer.kind !== "classify") full.style.background = hue(each.number);
    track.append(full);
    row.append(label, share, track);
    if (each.xyxy) row.title = each.xyxy.map((side) => side.toFixed(1)).join(", ");
    return row;
  });
  card.is("top").replaceChildren(...rows);
  const found = rows.length ? "" : "Nothing found · ";
  card.is("how").textContent = `${found}${answer.prepared} · ${answer.milliseconds.toFixed(1)} ms`;
  card.is("marked").hidden = answer.kind === "classify";
  if (answer.kind !== "classify") await mark(card.is("marked"), answer, file);
  card.is("raw").hidden = true;
  card.is("answer").hidden = false;
}

async function mark(canvas, answer, file) {
  const image = await createImageBitmap(file);
  const scale = Math.min(4, LONGEST / Math.max(image.width, image.height));
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = scale < 2;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  for (const each of answer.predictions) if (each.mask) cover(pen, each.mask, hue(each.number, 0.5));
  const letter = Math.max(LEAST_LETTER, canvas.width / 40);
  pen.font = `600 ${letter}px system-ui, sans-serif`;
  pen.lineWidth = Math.max(2, letter / 6);
  for (const each of answer.predictions) if (each.xyxy) frame(pen, each, scale, letter);
  const said = answer.predictions.map((each) => `${each.label} ${percent(each.score)}`).join(", ");
  canvas.setAttribute("aria-label", said || "Nothing found");
}

function frame(pen, box, scale, letter) {
  const [left, top, right, bottom] = box.xyxy.map((side) => side * scale);
  const text = `${box.label} ${percent(box.score)}`;
  pen.strokeStyle = pen.fillStyle = hue(box.number);
  pen.strokeRect(left, top, right - left, bottom - top);
  const above = Math.max(0, top - letter * 1.4);
  pen.fillRect(left - pen.lineWidth / 2, above, pen.measureText(text).width + letter * 0.6, letter * 1.4);
  pen.fillStyle = "white";
  pen.fillText(text, left + letter * 0.2, above + letter * 1.05);
}

// A mask is runs of 0 and 1 in turn, column by column; of each pixel shown its nearest is looked up, in that order.
function cover(pen, { size: [height, width], counts }, color) {
  const { width: across, height: down } = pen.canvas;
  pen.fillStyle = color;
  let [run, end] = [0, counts[0] ?? 0];
  for (let x = 0; x < across; x++) {
    const column = Math.floor(((x + 0.5) * width) / across) * height;
    let from = -1;
    for (let y = 0; y <= down; y++) {
      const at = column + Math.floor(((y + 0.5) * height) / down);
      while (y < down && at >= end && run + 1 < counts.length) end += counts[++run];
      const isIn = y < down && run % 2 === 1;
      if (isIn && from < 0) from = y;
      if (!isIn && from >= 0) {
        pen.fillRect(x, from, 1, y - from);
        from = -1;
      }
    }
  }
}

export function showTensors(card, answer) {
  const shown = answer.outputs.map(({ name, datatype, shape, data }) => {
    const some = data.length > 64 ? `${JSON.stringify(data.slice(0, 64)).slice(0, -1)}, … ${data.length} in all]` : JSON.stringify(data);
    return `${name} ${datatype} [${shape.join(", ")}]\n${some}`;
  });
  card.is("raw").textContent = shown.join("\n\n");
  card.is("raw").hidden = false;
  card.is("marked").hidden = true;
  card.is("top").replaceChildren();
  card.is("how").textContent = "";
  card.is("answer").hidden = false;
}

// ---------------------------------------------------------------- requests

// A request of zeros; null where it would be too long to write out.
export function exampleOf(model) {
  const inputs = model.inputs.map(({ name, datatype, shape }) => {
    const sizes = shape.map((size) => (typeof size === "number" ? size : 1));
    const count = sizes.reduce((product, size) => product * size, 1);
    const zero = datatype === "BOOL" ? false : 0;
    return { name, datatype, shape: sizes, data: count <= MOST_NUMBERS ? Array(count).fill(zero) : null };
  });
  return inputs.some((each) => each.data === null) ? null : JSON.stringify({ inputs });
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

// The same request as a line of the shell, and in Python.
export function codeOf(model, wantsToken) {
  const address = new URL(`v2/models/${encodeURIComponent(model.name)}/infer`, document.baseURI).href;
  const isImage = !model.image.refused;
  const type = isImage ? "image/jpeg" : "application/json";
  const body = isImage ? "@image.jpg" : quoted(exampleOf(model) ?? '{"inputs": [...]}');
  const token = wantsToken ? ' -H "Authorization: Bearer $TOKEN"' : "";
  const headers = [`"Content-Type": "${type}"`, ...(wantsToken ? ['"Authorization": "Bearer " + os.environ["TOKEN"]'] : [])];
  const data = isImage ? 'open("image.jpg", "rb").read()' : `json.dumps(${pythonOf(model)}).encode()`;
  return {
    curl: `curl -H "Content-Type: ${type}"${token} --data-binary ${body} ${quoted(address)}`,
    python: [
      `import json, ${wantsToken ? "os, " : ""}urllib.request`,
      "",
      `request = urllib.request.Request(${JSON.stringify(address)}, ${data}, {${headers.join(", ")}})`,
      "print(json.load(urllib.request.urlopen(request)))",
    ].join("\n"),
  };
}

function pythonOf(model) {
  const inputs = model.inputs.map(({ name, datatype, shape }) => {
    const sizes = shape.map((size) => (typeof size === "number" ? size : 1));
    const count = sizes.reduce((product, size) => product * size, 1);
    const zero = datatype === "BOOL" ? "False" : "0";
    const said = `"name": ${JSON.stringify(name)}, "datatype": "${datatype}", "shape": ${JSON.stringify(sizes)}`;
    return `{${said}, "data": [${zero}] * ${count}}`;
  });
  return `{"inputs": [${inputs.join(", ")}]}`;
}
