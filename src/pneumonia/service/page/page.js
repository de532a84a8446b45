// The page of the service: asks for answers and shows them. Names of files and texts of the service are never markup.
"use strict";

// Points of `predictor.json` in the words of a reader, for a model that tells `negative` from `positive`.
const POINTS = {
  youden: () => ["balanced", "sensitivity and specificity count alike"],
  target_sensitivity: ([negative, positive]) => [
    positive === "pneumonia" ? "misses fewer pneumonias" : `misses fewer ${positive} films`,
    `and calls more ${negative} films ${positive}`,
  ],
};

function pointInWords(name) {
  return POINTS[name] ? POINTS[name](state.model.labels) : [name.replaceAll("_", " "), ""];
}

const CHILDREN = [
  "Adults, babies and older children: all its films are of children from one to five years.",
  "Other hospitals and devices: all its films are of one hospital in Guangzhou, China.",
  "Other findings: each of its films was labelled CLASSES. What it says about heart failure, " +
    "tuberculosis, a tumour, fluid, air around the lung or tubes is not known.",
  "Films from the side: all of them are frontal.",
];
const SHRUNK = [...CHILDREN, "Fine detail: its films were cropped and shrunk before it saw them."];

// What a model of each data set never saw. The keys are those of `DATASETS`; CLASSES are the names of the two.
const UNSEEN = {
  phantom: [
    "A patient: all its films were made by a computer program.",
    "Any real device, hospital, illness or other finding.",
  ],
  chest_xray: CHILDREN,
  pneumoniamnist: SHRUNK,
  pneumoniamnist_64: SHRUNK,
  pneumoniamnist_128: SHRUNK,
  pneumoniamnist_224: SHRUNK,
  rsna: [
    "Other hospitals and devices: all its films are of one hospital in the USA (NIH Clinical Center).",
    "Many children: most of its films are of adults.",
    "A confirmed pneumonia: radiologists marked opacities that may be one. Films with other findings count as normal.",
    "Films from the side: all of them are frontal.",
  ],
  folder: [
    "Films that are not like those of the folder it learnt from: other hospitals, devices, ages and views.",
    "Other findings: each of its films was labelled CLASSES, whatever else it showed.",
    "This page does not know which patients and devices are in that folder. Ask the people who trained the model.",
  ],
};

// Reasons of a refusal that arrives without a text.
const REFUSALS = {
  400: "the file cannot be read as an image",
  403: "the service does not allow the name under which this page was opened",
  404: "the service does not offer this",
  413: "the file is too large",
  415: "the file is not an image that the service can read",
  422: "the file cannot be read as an image",
  429: "the service is busy; try again later",
  500: "the service has failed on this film; its log says why",
  503: "the service has no model at present; try again later",
};

const FORMATS = "JPEG, PNG, TIFF, BMP, WebP or DICOM"; // as in the errors of the service
const MAX_FILMS = 200; // as on the page of `pneumonia predict --html`
const PARALLEL = 2; // requests at once: the others of this page must not push those of other clients aside
const TRIES = 6; // while the service is busy
const PATIENCE = 150; // seconds for one answer; the service itself ends a map after 120
const AGAIN = 5; // seconds until a service without a model is asked again
const RAREST = 0.001; // ends of the slider
const COMMONEST = 0.9;

const state = {
  model: null, // answer of /v1/model
  point: "", // that of the service until a reader chooses one
  films: [], // in the order of their arrival
  selected: null,
  active: 0, // requests under way
  prevalence: null,
};

// ---- Numbers and words, as `pneumonia predict` gives them

// A number with fixed digits. Halves go to the even digit as in Python; toFixed rounds them up.
function fixed(value, digits) {
  const steps = value * 10 ** digits;
  const isHalf = Number.isInteger(value * 2 ** (digits + 1)) && steps % 1 === 0.5;
  return (isHalf && Math.floor(steps) % 2 === 0 ? Math.floor(steps) / 10 ** digits : value).toFixed(digits);
}

// A probability in percent; never 0 % or 100 %, which no model can know.
function percent(share, digits = 0) {
  if (share < 0.01) return "below 1 %";
  return share > 0.99 ? "above 99 %" : `${fixed(100 * share, digits)} %`;
}

// The same with one more digit near the ends, for shares that are small by their nature: 0.3 %.
function finePercent(share) {
  if (share < 0.001) return "below 0.1 %";
  if (share > 0.999) return "above 99.9 %";
  return percent(share) === percent(0) || percent(share) === percent(1) ? `${fixed(100 * share, 1)} %` : percent(share);
}

// Probability and threshold in percent, with as many digits as they need to differ.
function shares(row) {
  let pair = [];
  for (const digits of [0, 1, 2]) {
    pair = [percent(row.probability, digits), percent(row.threshold, digits)];
    if (pair[0] !== pair[1]) break;
  }
  return pair;
}

function inWords(row) {
  if (row.error) return `no answer: ${row.error}`;
  const { labels, finding } = state.model;
  const side = row.label === labels[1] ? "at or above" : "below";
  const [probability, threshold] = shares(row);
  const text = `${row.label}: probability of ${finding} ${probability}, ${side} the threshold of ${threshold}`;
  return text + (row.unusual ? `; unusual: ${row.unusual}` : "");
}

// The numbers of answers in one line.
function tally(rows) {
  const counts = new Map();
  for (const row of rows) {
    const name = row.error ? "without an answer" : row.label;
    counts.set(name, (counts.get(name) || 0) + 1);
  }
  const parts = [...counts].sort().map(([name, n]) => `${n} ${name}`);
  const unusual = rows.filter((row) => row.unusual).length;
  return `${rows.length} image${rows.length === 1 ? "" : "s"}: ${parts.join(", ")}; ${unusual} unusual`;
}

// Bayes: a probability that was calibrated where the share `from` is ill, where the share `to` is ill.
// odds' = odds * (to / (1 - to)) / (from / (1 - from)), written so that 0 and 1 are no exception.
function atPrevalence(probability, from, to) {
  const ill = (probability * to) / from;
  const healthy = ((1 - probability) * (1 - to)) / (1 - from);
  return ill / (ill + healthy);
}

// Of the films that are called positive, the share that shows the finding; of those that are called negative, the share
// that shows it nevertheless.
function predictiveValues(sensitivity, specificity, prevalence) {
  const [hit, miss] = [sensitivity * prevalence, (1 - sensitivity) * prevalence];
  const [alarm, pass] = [(1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)];
  return { calledPositive: hit / (hit + alarm), calledNegative: miss / (miss + pass) };
}

// The share of a place on the slider, 0 to 1: even steps of the logit, thus logarithmic where the finding is rare.
function shareAt(place) {
  const [low, high] = [logit(RAREST), logit(COMMONEST)];
  return 1 / (1 + Math.exp(-(low + place * (high - low))));
}

function placeOf(share) {
  const [low, high] = [logit(RAREST), logit(COMMONEST)];
  return Math.min(1, Math.max(0, (logit(share) - low) / (high - low)));
}

function logit(share) {
  return Math.log(share / (1 - share));
}

// A share that is not the answer of a model: 0.1 %, 2.5 %, 40 %.
function plainPercent(share) {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

// A figure and its interval, in the unit: [0.908, 0.834, 0.951] of 100 % are 90.8 % and 83.4 to 95.1 %.
function withInterval(figures, name, unit) {
  const asText = (value) => (unit ? (100 * value).toFixed(1) : value.toFixed(3));
  const ends = ["low", "high"].map((end) => figures[`${name}_${end}`]).filter(isNumber);
  const interval = ends.length === 2 ? `${asText(ends[0])} to ${asText(ends[1])}${unit}` : "–";
  return [`${asText(figures[name])}${unit}`, interval];
}

function count(n) {
  return n.toLocaleString("en-US");
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// A text without control characters, and without those that change the direction of what follows.
function oneLine(text) {
  const isSafe = (sign) => sign === " " || !/[\p{C}\p{Z}]/u.test(sign);
  return [...text].map((sign) => (isSafe(sign) ? sign : escaped(sign))).join("");
}

// As Python writes a sign that has no form: \t, \x1b, \u202e, \U000e0001.
function escaped(sign) {
  const short = { "\t": "\\t", "\n": "\\n", "\r": "\\r" }[sign];
  const code = sign.codePointAt(0);
  const [letter, digits] = code < 2 ** 8 ? ["x", 2] : code < 2 ** 16 ? ["u", 4] : ["U", 8];
  return short || `\\${letter}${code.toString(16).padStart(digits, "0")}`;
}

function size(bytes) {
  return bytes >= 2 ** 20 ? `${Math.floor(bytes / 2 ** 20)} MB` : `${Math.ceil(bytes / 1024)} kB`;
}

// ---- Elements

function byId(id) {
  return document.getElementById(id);
}

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  setText(element, text);
  if (className) element.className = className;
  return element;
}

function show(id, isVisible) {
  byId(id).hidden = !isVisible;
}

// A text; a number and its % stay on one line.
function setText(element, text) {
  element.textContent = text.replaceAll(" %", "\u00a0%");
}

// A text, and its element only where there is one.
function write(id, text) {
  setText(byId(id), text);
  show(id, Boolean(text));
}

function announce(text) {
  byId("status").textContent = text;
}

// ---- The service

// A request that fails with a sentence for the reader, and says whether another try may help.
class Refused extends Error {
  constructor(message, again = false) {
    super(message);
    this.again = again;
  }
}

// An answer of the service with status 200. While the service is busy, the page waits and asks again.
async function ask(path, file = null, signal = null, onBusy = () => {}) {
  for (let attempt = 1; ; attempt++) {
    const response = await send(path, file, signal);
    if (response.ok) return response;
    if (response.status === 429 && attempt < TRIES) {
      onBusy();
      await new Promise((done) => setTimeout(done, 1000 * secondsToWait(response)));
      if (signal && signal.aborted) throw new Refused("removed");
      continue;
    }
    throw new Refused(await reasonOf(response), response.status === 429 || response.status >= 500);
  }
}

async function send(path, file, signal) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), 1000 * PATIENCE);
  if (signal) signal.addEventListener("abort", () => controller.abort(), { once: true });
  const options = { signal: controller.signal, cache: "no-store" };
  if (file) {
    options.method = "POST";
    options.body = new FormData();
    options.body.append("file", file, file.name);
  }
  try {
    const response = await fetch(path, options);
    // The body too must arrive in time.
    const body = await response.blob();
    return new Response(body, response);
  } catch (error) {
    if (signal && signal.aborted) throw new Refused("removed");
    if (controller.signal.aborted) throw new Refused(`the service gave no answer within ${PATIENCE} seconds`, true);
    if (file && !(await isReadable(file))) {
      throw new Refused("the file cannot be read; it was moved, changed, or is a folder: choose it again");
    }
    throw new Refused("the service cannot be reached; check that it still runs, then try again", true);
  } finally {
    clearTimeout(timer);
  }
}

async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

function secondsToWait(response) {
  const seconds = Number.parseFloat(response.headers.get("Retry-After"));
  return Math.min(30, Math.max(1, isNumber(seconds) ? seconds : 2));
}

async function reasonOf(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string") return error;
  } catch {
    // Not JSON: the status is all there is.
  }
  return REFUSALS[response.status] || `the service refused the film (status ${response.status})`;
}

async function loadModel() {
  try {
    const model = await (await ask("v1/model")).json();
    const changed = state.model !== null && state.model.model !== model.model;
    state.model = model;
    if (!(state.point in model.operating_points)) state.point = model.operating_point;
    write("trouble", "");
    showModel();
    if (changed) {
      announce("The service has a new model. All films are scored again.");
      state.films.forEach(forgetPictures);
      askAgain();
    }
    pump();
  } catch (error) {
    write("trouble", `No model: ${sentence(error.message)} This page asks again every ${AGAIN} seconds.`);
    setTimeout(loadModel, 1000 * AGAIN);
  }
}

function sentence(text) {
  return text.endsWith(".") ? text : `${text}.`;
}

// ---- Films

function addFiles(files) {
  const room = MAX_FILMS - state.films.length;
  const added = [...files].slice(0, Math.max(0, room)).map(newFilm);
  state.films.push(...added);
  const isSurplus = files.length > room;
  write("notice", isSurplus ? `This page takes ${MAX_FILMS} films. For more, use pneumonia predict.` : "");
  if (!added.length) return;
  announce(`${added.length === 1 ? added[0].name : `${added.length} films`}: waiting for the answer`);
  if (!state.selected) state.selected = added[0];
  added.forEach((film) => showItem(film));
  showAnswer();
  showTally();
  pump();
}

function newFilm(file) {
  const film = {
    file,
    name: oneLine(file.name),
    step: "waiting", // then "asking", then "done"
    row: null, // of the answer, or only {error}
    again: false, // another try may help
    refused: false, // before it was sent
    tries: 0, // to get an answer of the model that this page describes
    picture: null, // object URL of the whole film
    square: [0, 0, 100, 100], // what the model saw of it: left, top, width and height in percent
    pictureError: "",
    isPictureLoading: false,
    map: null, // object URL
    mapError: "",
    isMapLoading: false,
    removed: new AbortController(),
    item: newItem(),
  };
  film.item.button.addEventListener("click", () => select(film));
  return film;
}

function newItem() {
  const [li, button, name, text] = ["li", "button", "b", "span"].map((tag) => make(tag));
  const item = { li, button, name, text, flag: make("span", "", "flag") };
  item.button.type = "button";
  item.button.append(item.name, item.text, item.flag);
  item.li.append(item.button);
  byId("films").append(item.li);
  return item;
}

// Why a file need not be sent at all; empty if it may be sent.
function refusal(file) {
  const limit = state.model.limits && state.model.limits.bytes;
  if (file.size === 0) return "the file is empty, or it is a folder";
  return limit && file.size > limit ? `the file has ${size(file.size)}; at most ${size(limit)} are taken` : "";
}

function pump() {
  while (state.model && state.active < PARALLEL) {
    const film = state.films.find((one) => one.step === "waiting");
    if (!film) return;
    state.active++;
    score(film).finally(() => {
      state.active--;
      pump();
    });
  }
}

async function score(film) {
  const point = state.point;
  film.step = "asking";
  showItem(film);
  try {
    const problem = refusal(film.file);
    film.refused = Boolean(problem);
    if (problem) throw new Refused(problem);
    const path = `v1/predict?operating_point=${encodeURIComponent(point)}`;
    const onBusy = () => showItem(film, "waiting: the service is busy");
    const response = await ask(path, film.file, film.removed.signal, onBusy);
    [film.row] = (await response.json()).predictions;
    film.again = false;
  } catch (error) {
    const isKnown = error instanceof Refused;
    film.row = { error: isKnown ? error.message : "the service gave an answer that this page does not understand" };
    film.again = !isKnown || error.again;
  }
  if (film.removed.signal.aborted) return;
  const isOfOtherModel = film.row.model && film.row.model !== state.model.model;
  if (isOfOtherModel && film.tries < 3) {
    film.tries++;
    film.step = "waiting";
    await loadModel();
    return;
  }
  film.step = point === state.point || film.refused ? "done" : "waiting";
  if (film.step === "done") {
    film.tries = 0;
    if (isOfOtherModel) {
      film.row = { error: "the service changes its model at present" };
      film.again = true;
    }
  }
  showItem(film);
  if (film === state.selected) showAnswer();
  showTally();
}

// After a change of the operating point or of the model.
function askAgain() {
  for (const film of state.films) {
    if (film.step === "done" && !film.refused) {
      film.step = "waiting";
      film.row = null;
      showItem(film);
    }
  }
  showAnswer();
  showTally();
  pump();
}

function tryAgain(film) {
  film.step = "waiting";
  film.row = null;
  showItem(film);
  showAnswer();
  byId("answer-name").focus();
  pump();
}

function select(film) {
  state.selected = film;
  film.pictureError = ""; // ask again
  state.films.forEach((one) => showItem(one));
  showAnswer();
  if (film.row) announce(`${film.name}: ${inWords(film.row)}`);
  // Beside the list it is in sight; on a phone it is below the list.
  byId("answer").scrollIntoView({ block: "nearest" });
}

function remove(film) {
  film.removed.abort();
  forgetPictures(film);
  film.item.li.remove();
  const place = state.films.indexOf(film);
  state.films.splice(place, 1);
  if (film === state.selected) state.selected = state.films[Math.min(place, state.films.length - 1)] || null;
}

function forgetPictures(film) {
  for (const name of ["picture", "map"]) {
    if (film[name]) URL.revokeObjectURL(film[name]);
    film[name] = null;
    film[`${name}Error`] = "";
  }
}

async function loadPicture(film) {
  if (film.picture || film.pictureError || film.isPictureLoading) return;
  film.isPictureLoading = true;
  await loadInto(film, "picture", "v1/whole");
  film.isPictureLoading = false;
  if (film === state.selected) showAnswer();
}

async function loadMap(film) {
  if (film.map || film.isMapLoading) return;
  film.isMapLoading = true;
  film.mapError = "";
  showPictures(film);
  await loadInto(film, "map", "v1/saliency");
  film.isMapLoading = false;
  if (film !== state.selected) return;
  showPictures(film);
  announce(film.map ? "The map is shown over the film." : `No map: ${film.mapError}`);
  if (film.map) byId("opacity").focus();
}

async function loadInto(film, name, path) {
  const { model } = film.row;
  const isPast = () => film.removed.signal.aborted || !film.row || film.row.model !== model;
  try {
    const response = await ask(path, film.file, film.removed.signal);
    const picture = await response.blob();
    if (isPast()) return;
    if (response.headers.get("X-Model") !== model) {
      await loadModel(); // of a new champion: the film is scored again
      if (isPast()) return;
      throw new Refused("the service changes its model at present; try again");
    }
    const square = response.headers.get("X-Square");
    if (square) film.square = square.split(" ").map((share) => 100 * Number.parseFloat(share));
    film[name] = URL.createObjectURL(picture);
  } catch (error) {
    film[`${name}Error`] = error.message;
  }
}

// ---- What a reader sees of the films

function showItem(film, waiting = "") {
  const { button, name, text, flag } = film.item;
  name.textContent = film.name;
  const { row } = film;
  if (film.step !== "done") setText(text, waiting || (film.step === "asking" ? "being scored" : "waiting"));
  else setText(text, row.error ? inWords(row) : `${row.label}, ${shares(row)[0]}`);
  flag.textContent = film.step === "done" && row.unusual ? "unusual: do not trust it" : "";
  if (film === state.selected) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

function showTally() {
  const { films } = state;
  const done = films.filter((film) => film.step === "done");
  show("answers", films.length > 0);
  byId("answers").classList.toggle("several", films.length > 1);
  show("list", films.length > 1);
  const progress = byId("progress");
  progress.max = Math.max(1, films.length);
  progress.value = done.length;
  const isFinished = done.length === films.length;
  progress.hidden = isFinished;
  const text = isFinished ? tally(films.map((film) => film.row)) : `${done.length} of ${films.length} films`;
  byId("tally").textContent = text;
  if (isFinished && films.length === 1) announce(`${films[0].name}: ${inWords(films[0].row)}`);
  else if (isFinished && films.length) announce(text);
}

function showAnswer() {
  const film = state.selected;
  if (!film) return;
  const row = film.step === "done" ? film.row : null;
  byId("answer-name").textContent = film.name;
  write("unusual", row && row.unusual ? `Do not trust this answer: the film ${sentence(row.unusual)}` : "");
  // The warning above has the rest of the sentence.
  setText(byId("sentence"), row ? inWords({ ...row, unusual: "" }) : "Waiting for the answer…");
  show("again", Boolean(row && row.error && film.again));
  const isAnswered = Boolean(row && !row.error);
  show("scale", isAnswered);
  show("synthetic", isAnswered && state.model.synthetic);
  if (isAnswered) {
    showScale(row);
    loadPicture(film);
  }
  showPictures(film);
  showElsewhere();
}

function showScale(row) {
  const [probability, threshold] = shares(row);
  byId("scale").setAttribute(
    "aria-label",
    `Scale from 0 to 100 %: probability of ${state.model.finding} ${probability}, threshold ${threshold}`,
  );
  byId("fill").style.width = `${100 * row.probability}%`;
  for (const [name, share, text] of [
    ["probability", row.probability, probability],
    ["threshold", row.threshold, `threshold ${threshold}`],
  ]) {
    byId(`${name}-mark`).style.left = `${100 * share}%`;
    const label = byId(`${name}-label`);
    setText(label, text);
    label.style.left = `${100 * share}%`;
    label.style.transform = `translateX(-${100 * share}%)`; // so that it never leaves the scale
  }
}

function showPictures(film) {
  const isAnswered = film.step === "done" && !film.row.error;
  const { saliency } = state.model || { saliency: {} };
  setPicture("film", film.picture, `The film ${film.name}, with the outline of its lungs and what the model saw`);
  setPicture("map", film.map, "Saliency map over the film");
  ["left", "top", "width", "height"].forEach((side, place) => {
    byId("map").style[side] = `${film.square[place]}%`;
  });
  byId("film-note").textContent = noteOf(film);
  show("columns", film.step !== "done" || isAnswered);
  show("map-controls", isAnswered && Boolean(film.picture));
  const problem = saliency.available ? film.mapError : saliency.reason;
  write("map-reason", problem ? `No map: ${sentence(problem.replace(/^no map: /, ""))}` : "");
  const button = byId("show-map");
  button.hidden = !saliency.available || Boolean(film.map);
  button.disabled = film.isMapLoading;
  button.textContent = film.isMapLoading ? "The map is being made…" : "Show the map";
  show("map-slider", Boolean(film.map));
  byId("map-verdict").textContent = saliency.verdict
    ? `Check of the maps of this model: ${sentence(saliency.verdict)}`
    : "Whether the maps of this model can be trusted was not checked.";
  showOpacity();
}

function noteOf(film) {
  if (film.picture) {
    const boxes = Object.keys(state.model.boxes || {}).length > 0;
    return (
      "Yellow: the lungs, where a program finds two. Blue: the part that the model saw. " +
      (boxes
        ? "Orange: what the detector found, with its score. Boxes have a threshold of their own, so that a film below " +
          "the threshold of the answer may have some. "
        : "") +
      "The picture is shrunk: do not read the film from it."
    );
  }
  return film.pictureError ? `The film cannot be shown: ${sentence(film.pictureError)}` : "The film appears here.";
}

function setPicture(id, url, text) {
  const image = byId(id);
  image.hidden = !url;
  if (!url) image.removeAttribute("src");
  else if (image.src !== url) image.src = url;
  image.alt = url ? text : "";
}

function showOpacity() {
  const { value } = byId("opacity");
  byId("map").style.opacity = value / 100;
  byId("opacity").setAttribute("aria-valuetext", `${value} %`);
}

// ---- Another prevalence

// Of the validation images, on which the probability was calibrated; null where it is not known.
function calibratedPrevalence() {
  const val = (state.model.figures || {}).val || {};
  const share = val.n_positive / val.n;
  return share > 0 && share < 1 ? share : null;
}

function showElsewhere() {
  const film = state.selected;
  const row = film && film.step === "done" ? film.row : null;
  const from = state.model ? calibratedPrevalence() : null;
  const isPossible = Boolean(row && !row.error && !row.unusual && from !== null);
  show("elsewhere", isPossible);
  if (!isPossible) return;
  const to = state.prevalence === null ? from : state.prevalence;
  const slider = byId("prevalence");
  const share = plainPercent(to);
  const { finding } = state.model;
  slider.value = Math.round(100 * placeOf(to));
  slider.setAttribute("aria-valuetext", share);
  setText(byId("share"), share);
  setText(
    byId("basis"),
    `The probability above holds where ${plainPercent(from)} of the films show ${finding}, as among the ` +
      `${count(state.model.figures.val.n)} validation films of the model.`,
  );
  const there = finePercent(atPrevalence(row.probability, from, to));
  const instead = state.prevalence === null ? ", as above" : ` instead of ${finePercent(row.probability)}`;
  setText(byId("adjusted"), `Where ${share} of the films show ${finding}: ${there}${instead}.`);
  setText(byId("values"), valuesInWords(to, finePercent(atPrevalence(row.threshold, from, to))));
  byId("as-validation").disabled = state.prevalence === null;
}

function valuesInWords(prevalence, threshold) {
  const { sensitivity, specificity } = state.model.operating_points[state.point];
  const { n } = (state.model.figures || {}).test || {};
  const start =
    "This is the rule of Bayes; it assumes that the films differ in nothing else. The answer stays the same, because " +
    `the threshold moves along, to ${threshold} there.`;
  if (!isNumber(sensitivity) || !isNumber(specificity)) return start;
  const [negative, positive] = state.model.labels;
  const { calledPositive, calledNegative } = predictiveValues(sensitivity, specificity, prevalence);
  return (
    `${start} Of all films that the model calls ${positive} there, ${finePercent(calledPositive)} would show it; of ` +
    `those that it calls ${negative}, ${finePercent(calledNegative)} would, if it is as good there as on its ` +
    `${count(n)} test films.`
  );
}

// ---- The model

function showModel() {
  const { model } = state;
  const subject = `${capital(model.finding)} on chest X-rays`;
  const title = model.synthetic ? "Answers of a model of synthetic radiographs" : subject;
  byId("title").textContent = title;
  document.title = title;
  byId("caution").textContent = model.advice ? `${model.caution} (${model.advice})` : model.caution;
  byId("caution").classList.toggle("warning", Boolean(model.synthetic));
  const limit = model.limits && model.limits.bytes;
  const largest = limit ? `, each up to ${size(limit)}` : "";
  byId("accepted").textContent = `${FORMATS}${largest}; up to ${MAX_FILMS} films.`;
  setText(byId("points-legend"), `What counts as ${model.labels[1]}`);
  setText(byId("scale-label"), `probability of ${model.finding}`);
  setText(byId("elsewhere-title"), `If ${model.finding} is rarer or more frequent where you work`);
  setText(byId("prevalence-label"), `Share of your films that show ${model.finding}`);
  showPoints();
  fillList("reading", reading());
  fillList("unseen", unseen());
  showFigures();
  showModelRows();
  show("facts", true);
  if (state.selected) showAnswer();
}

function showPoints() {
  const box = byId("points");
  const isFocused = box.contains(document.activeElement);
  box.replaceChildren(box.querySelector("legend"));
  const { finding, labels: [negative] } = state.model;
  for (const [name, point] of Object.entries(state.model.operating_points)) {
    const [title, meaning] = pointInWords(name);
    const input = make("input");
    Object.assign(input, { type: "radio", name: "point", id: `point-${name}`, value: name });
    input.autocomplete = "off";
    input.checked = name === state.point;
    const label = make("label", title);
    label.htmlFor = input.id;
    const rates = ["sensitivity", "specificity"].every((one) => isNumber(point[one]))
      ? `on its test films it finds ${percent(point.sensitivity)} of those with ${finding} and calls ` +
        `${percent(point.specificity)} of the ${negative} ones ${negative}`
      : "";
    label.append(make("span", [meaning, rates].filter(Boolean).join("; "), "note"));
    input.addEventListener("change", () => {
      state.point = name;
      showFigures();
      fillList("reading", reading());
      askAgain();
    });
    const choice = make("div", "", "choice");
    choice.append(input, label);
    box.append(choice);
    if (isFocused && input.checked) input.focus();
  }
  box.hidden = Object.keys(state.model.operating_points).length < 2;
}

function fillList(id, sentences) {
  byId(id).replaceChildren(...sentences.map((text) => make("li", text)));
}

function reading() {
  const { model } = state;
  const from = calibratedPrevalence();
  const [title] = pointInWords(state.point);
  const { finding, labels: [negative, positive] } = model;
  return [
    model.synthetic ? "The model has never seen a patient. Its answers are only a test of the software." : "",
    from === null
      ? `How frequent ${finding} was among the films of the calibration is not known. Read the probability with care.`
      : `The probability was calibrated on ${count(model.figures.val.n)} validation films, of which ` +
        `${plainPercent(from)} show ${finding}. Where ${finding} is rarer, it is too high.`,
    `An answer is ${positive} at or above the threshold (${title}), which was chosen on validation films. It is no ` +
      "limit between healthy and sick.",
    `${capital(negative)} means below the threshold. It does not rule out ${finding}, and says nothing about other ` +
      "findings.",
    model.unusual
      ? "A film that is unusual does not look like those the model learnt from. Do not trust its answer. A film that " +
        "looks usual can still be of another kind of patient."
      : "This model cannot tell whether a picture is unlike those it learnt from. It answers for any picture.",
    "A map shows where the score depends on the pixels. It does not say why.",
  ].filter(Boolean);
}

function unseen() {
  const { data, labels, limit } = state.model;
  const known = UNSEEN[data.split(" ")[0]] || UNSEEN.folder;
  return [...(limit ? [limit] : []), ...known.map((text) => text.replace("CLASSES", labels.join(" or ")))];
}

function showFigures() {
  const { figures = {}, finding, learnt_from: learnt = {}, operating_points: points } = state.model;
  const { val = {}, test = {}, level } = figures;
  const source = learnt.title ? `: ${learnt.title}` : "";
  byId("tested").textContent = isNumber(test.n)
    ? `On ${count(test.n)} films that it did not learn from, ${count(test.n_positive)} of them with ${finding}. ` +
      `They are of the same source as those it learnt from${source}. How good it is on films of another source is not known.`
    : "The model does not say on how many films it was tested. Do not rely on it.";
  byId("level").textContent = isNumber(level) ? `${Math.round(100 * level)} % interval` : "interval";
  const rows = [
    ["AUC on test", test, "auc", "", test.n],
    ["AUC on validation", val, "auc", "", val.n],
    ...Object.entries(points).flatMap(([name, point]) => {
      const [title] = pointInWords(name);
      return [
        [`sensitivity on test, ${title}`, point, "sensitivity", " %", test.n_positive],
        [`specificity on test, ${title}`, point, "specificity", " %", test.n - test.n_positive],
      ];
    }),
    ["calibration error on test", test, "ece", "", test.n],
  ].filter(([, from, name]) => isNumber(from[name]));
  byId("figures").replaceChildren(
    ...rows.map(([title, from, name, unit, n]) => {
      const row = make("tr");
      const head = make("th", title);
      head.scope = "row";
      const [value, interval] = withInterval(from, name, unit);
      row.append(head, make("td", value), make("td", interval), make("td", isNumber(n) ? count(n) : "–"));
      return row;
    }),
  );
  show("figures-box", rows.length > 0);
}

function showModelRows() {
  const { model } = state;
  const learnt = model.learnt_from || {};
  const [negative, positive] = model.labels;
  const counts = isNumber(learnt.n_images)
    ? `${count(learnt.n_images)} films of ${count(learnt.n_patients)} patients: ` +
      `${count(learnt[`n_${negative}`])} ${negative}, ${count(learnt[`n_${positive}`])} with ${model.finding}`
    : "";
  const rows = [
    ["data", `${model.data}${model.synthetic && !model.data.includes("synthetic") ? " (synthetic)" : ""}`],
    ["learnt from", learnt.title],
    ["films", counts],
    ["source", [learnt.citation, learnt.licence].filter(Boolean).join("; licence: ")],
    ["network", model.network],
    ["pretrained weights", model.weights],
    ["version", model.version],
    ["predictor", model.model],
    ["caution", model.caution],
  ].filter(([, value]) => value);
  byId("model").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", name), make("dd", String(value))]));
}

// ---- What a reader does

function start() {
  const { host } = window.location;
  write("privacy", `Your films go only to the service at ${host}, which sent you this page. Nothing is stored.`);

  const files = byId("files");
  files.addEventListener("change", () => {
    addFiles(files.files);
    files.value = ""; // so that the same file can be chosen again
  });

  // Anywhere on the page: a browser would otherwise open a film that misses the box.
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").classList.remove("over");
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
    else write("notice", "That was no file. Drop films as files.");
  });

  byId("clear").addEventListener("click", () => {
    [...state.films].forEach(remove);
    write("notice", "");
    showTally();
    announce("All films are removed.");
    files.focus();
  });
  byId("remove").addEventListener("click", () => {
    const { name } = state.selected;
    remove(state.selected);
    state.films.forEach((film) => showItem(film));
    showAnswer();
    showTally();
    announce(`${name} is removed.`);
    if (state.selected) byId("answer-name").focus();
    else files.focus();
  });
  byId("again").addEventListener("click", () => tryAgain(state.selected));
  byId("show-map").addEventListener("click", () => loadMap(state.selected));
  byId("opacity").addEventListener("input", showOpacity);
  byId("prevalence").addEventListener("input", () => {
    state.prevalence = shareAt(byId("prevalence").value / 100);
    showElsewhere();
  });
  byId("as-validation").addEventListener("click", () => {
    state.prevalence = null;
    showElsewhere();
    byId("prevalence").focus(); // the button is off now
  });
  window.addEventListener("pagehide", () => state.films.forEach(forgetPictures));
  loadModel();
}

start();
