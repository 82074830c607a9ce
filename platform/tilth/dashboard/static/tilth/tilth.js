// Uploads and trials go from the page straight to the thin app, with a key that lives a quarter of an hour.
const keys = {};

async function browserKey(form) {
  const url = form.dataset.keyUrl;
  if (!keys[url]) {
    const token = JSON.parse(document.body.getAttribute("hx-headers"))["x-csrftoken"];
    const answer = await fetch(url, { method: "POST", headers: { "x-csrftoken": token } });
    if (!answer.ok) throw new Error("Your session has ended; sign in again.");
    keys[url] = (await answer.json()).key;
  }
  return keys[url];
}

function tell(form, text, bad = false) {
  const place = form.querySelector(".told");
  place.textContent = text;
  place.classList.toggle("bad", bad);
}

function send(form, key) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const bar = form.querySelector("progress");
    const body = new FormData();
    body.append("purpose", form.dataset.upload || "fine-tune");
    body.append("file", form.querySelector("input[type=file]").files[0]);
    bar.hidden = false;
    request.upload.onprogress = (event) => { bar.value = event.loaded / event.total; };
    request.onload = () => {
      const answer = JSON.parse(request.responseText);
      if (request.status < 300) resolve(answer); else reject(new Error(answer.error.message));
    };
    request.onerror = () => reject(new Error("The connection was lost; nothing was stored. Try again."));
    request.open("POST", "/v1/files");
    request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.send(body);
  });
}

function bar(label, share) {
  const row = document.createElement("div");
  row.className = "bar";
  for (const [tag, text] of [["span", label], ["span", ""], ["span", `${(100 * share).toFixed(1)} %`]]) {
    const part = document.createElement(tag);
    part.textContent = text;
    row.append(part);
  }
  const fill = document.createElement("i");
  fill.style.width = `${100 * share}%`;
  row.children[1].append(fill);
  return row;
}

function showPrediction(form, answer) {
  const first = answer.data[0];
  const place = form.querySelector(".told");
  const said = first.out_of_scope ? `Out of scope (nearest: ${first.output})` : [].concat(first.output).join(", ") || "None of the labels";
  tell(form, first.interval ? `${said} (between ${first.interval[0]} and ${first.interval[1]})` : said);
  const likely = Object.entries(first.probabilities || {}).sort((a, b) => b[1] - a[1]).slice(0, 5);
  for (const [label, share] of likely) place.append(bar(label, share));
}

function asked(field) {
  if (field.name !== "row") return { text: field.value };
  try { return JSON.parse(field.value); } catch (error) { throw new Error(`The row is no JSON: ${error.message}.`); }
}

async function ask(form) {
  const body = { model: form.dataset.model, inputs: [asked(form.querySelector("textarea"))] };
  const headers = { Authorization: `Bearer ${await browserKey(form)}`, "Content-Type": "application/json" };
  const answer = await fetch("/v1/predictions", { method: "POST", headers, body: JSON.stringify(body) });
  const read = await answer.json();
  if (!answer.ok) throw new Error(read.error.message);
  showPrediction(form, read);
}

async function upload(form) {
  const made = await send(form, await browserKey(form));
  if ("thenReload" in form.dataset) { location.reload(); return; }
  tell(form, `${made.filename} is stored as ${made.id} and is being checked.`);
  document.body.dispatchEvent(new Event("uploaded"));
}

for (const [mark, work] of [["upload", upload], ["try", ask]]) {
  for (const form of document.querySelectorAll(`form[data-${mark}]`)) {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector("button");
      button.disabled = true;
      try { await work(form); } catch (error) { tell(form, error.message, true); } finally { button.disabled = false; }
    });
  }
}
