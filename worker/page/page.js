"use strict";
// Shows what the server says of the fleet. It asks every 15 seconds, and not at all while nobody looks.
const EVERY_MS = 15000;
const STALE_SECONDS = 60;
const state = { fleet: null, points: [], minutes: 60, loadedAt: 0, problem: "" };

const $ = (selector) => document.querySelector(selector);
const number = (value) => Math.round(value).toLocaleString("en");
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

// All text gets in as text: nothing that a server or an app said can become HTML.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  made.textContent = text;
  return made;
}

function duration(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) {
      return `${Math.round(seconds / size)} ${unit}`;
    }
  }
  return `${Math.round(seconds)} s`;
}

async function ask(path) {
  const response = await fetch(path, { cache: "no-store" });
  const found = await response.json();
  if (!response.ok) {
    throw new Error(found.error || response.statusText);
  }
  return found;
}

async function load() {
  try {
    const last = state.points.length ? state.points[state.points.length - 1].at : 0;
    const found = await ask(`api/fleet?since=${last}`);
    state.fleet = found;
    const oldest = Date.now() / 1000 - 86400;
    state.points = state.points.concat(found.points).filter((point) => point.at > oldest);
    state.loadedAt = Date.now() - found.age_seconds * 1000;
    state.problem = "";
    show();
  } catch (error) {
    state.problem = error.message;
  }
  tick();
}

function tick() {
  const seconds = state.loadedAt ? (Date.now() - state.loadedAt) / 1000 : 0;
  const stale = state.problem !== "" || seconds > STALE_SECONDS;
  document.body.classList.toggle("stale", stale && state.loadedAt > 0);
  $("#age").textContent = state.loadedAt ? `numbers of ${duration(seconds)} ago` : "";
  if (state.problem) {
    verdict(state.problem.startsWith("Failed to fetch") ? "The page's server doesn't answer: is the tunnel still open?" : state.problem, false);
  }
}

function verdict(words, well) {
  const place = $("#verdict");
  if (place.textContent !== words) {
    place.textContent = words;
  }
  place.className = well ? "well" : "wrong";
}

function show() {
  const { status } = state.fleet;
  const wrong = Object.values(status.troubles);
  if (!status.working) {
    wrong.unshift("No worker is there: nothing will be sent. Look at supervisorctl status on the hosts.");
  }
  if (status.account.stopped && !status.troubles.account) {
    wrong.unshift(status.account.stopped);
  }
  verdict(wrong.length ? `${wrong.length} ${wrong.length === 1 ? "thing is" : "things are"} wrong` : "All is well", !wrong.length);
  document.title = wrong.length ? `(${wrong.length}) mail-worker` : "mail-worker";
  $("#troubles").hidden = !wrong.length;
  $("#troubles ul").replaceChildren(...wrong.map((sentence) => element("li", {}, sentence)));
  showNumbers(status);
  showPlots();
  showCampaigns(status);
  showAccount(status);
  showHosts(status);
  $("#told").replaceChildren(
    ...(state.fleet.told.length
      ? state.fleet.told.map(([at, , words]) => element("li", {}, element("time", {}, clock(at)), words))
      : [element("li", {}, "Nothing yet.")]),
  );
}

function sum(status, name, ofBullmq) {
  return status[name] + (status.bullmq ? status.bullmq[ofBullmq] : 0);
}

function showNumbers(status) {
  const left = status.seconds_left === null || !status.to_send ? "–" : duration(status.seconds_left);
  const memory = status.memory;
  const shown = [
    ["waiting", number(sum(status, "waiting", "waiting"))],
    ["in work", number(sum(status, "in_work", "active"))],
    ["delayed", number(sum(status, "delayed", "delayed"))],
    ["done in about", left],
    ["accepted, ever", number(status.totals.accepted || 0)],
    ["failed, ever", number(status.totals.failed || 0)],
    ["dead letters", number(status.dead_letters), status.dead_letters ? "mail-worker dead list" : ""],
    ["results on their way", number(status.outbox)],
    ["Redis commands", number(status.commands), `this month, $${status.dollars_this_month.toFixed(2)}`],
    ["Redis memory", memory ? `${number(memory.used / 1e6)} MB` : "–", memory && memory.limit ? `of ${number(memory.limit / 1e6)}` : ""],
  ];
  $("#numbers").replaceChildren(
    ...shown.map(([name, value, more]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value, more ? element("small", {}, ` ${more}`) : null)),
    ),
  );
}

// What was counted in each minute, from what only rises.
function rates(points, name) {
  return points.slice(1).map((point, place) => {
    const before = points[place];
    const minutes = Math.max((point.at - before.at) / 60, 1);
    return [point.at, Math.max(point[name] - before[name], 0) / minutes];
  });
}

function showPlots() {
  const newest = state.points.length ? state.points[state.points.length - 1].at : Date.now() / 1000;
  const points = state.points.filter((point) => point.at >= newest - (state.minutes + 1) * 60);
  plot($("#rate"), "Mails a minute", [
    { name: "accepted", words: "accepted", values: rates(points, "accepted") },
    { name: "failed", words: "failed", values: rates(points, "failed") },
  ]);
  plot($("#waiting"), "Waiting mails", [{ name: "waiting", words: "waiting", values: points.map((point) => [point.at, point.waiting]) }]);
}

function round(highest) {
  // An even number, so that its half is one, too.
  const size = 10 ** Math.floor(Math.log10(Math.max(highest, 2)));
  return [1, 2, 4, 6, 8, 10].map((factor) => factor * size).find((step) => step >= highest && step % 2 === 0);
}

function plot(figure, title, series) {
  const open = figure.querySelector("details")?.open || false;
  const all = series.flatMap((one) => one.values);
  if (all.length < 2) {
    figure.replaceChildren(element("p", {}, "There is no history yet: a point comes each minute."));
    return;
  }
  // As wide as it's shown, so that its words have their size.
  const [width, height, left, bottom, top] = [figure.clientWidth || 600, 176, 48, 20, 8];
  const from = Math.min(...all.map(([at]) => at));
  const to = Math.max(...all.map(([at]) => at), from + 60);
  const highest = round(Math.max(...all.map(([, value]) => value), 1));
  const x = (at) => left + ((at - from) / (to - from)) * (width - left - 6);
  const y = (value) => top + (1 - value / highest) * (height - bottom - top);
  const last = series.map((one) => `${number(one.values[one.values.length - 1][1])} ${one.words}`).join(", ");
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${last}. The table below has the numbers.` });
  for (const part of [0, 0.5, 1]) {
    picture.append(drawn("line", { class: "grid", x1: left, x2: width - 6, y1: y(part * highest), y2: y(part * highest) }));
    picture.append(drawn("text", { x: left - 6, y: y(part * highest) + 4, "text-anchor": "end" }, number(part * highest)));
  }
  for (const part of [0, 0.5, 1]) {
    const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
    picture.append(drawn("text", { x: x(from + part * (to - from)), y: height - 5, "text-anchor": anchor }, clock(from + part * (to - from))));
  }
  for (const one of series) {
    const line = one.values.map(([at, value], place) => `${place ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const end = one.values[one.values.length - 1][0];
    picture.append(drawn("path", { class: `fill-${one.name}`, d: `${line}L${x(end)} ${y(0)}L${x(one.values[0][0])} ${y(0)}Z` }));
    picture.append(drawn("path", { class: `line ${one.name}`, d: line }));
  }
  const legend = element("ul", { class: "legend" }, ...series.map((one) => {
    const value = one.values[one.values.length - 1][1];
    return element("li", {}, element("i", { class: one.name }), `${one.words}: ${number(value)} now, ${number(Math.max(...one.values.map((pair) => pair[1])))} at most`);
  }));
  const rows = series[0].values.map(([at], place) => [clock(at), ...series.map((one) => number(one.values[place][1]))]).reverse();
  const numbers = element("details", {}, element("summary", {}, "As a table"),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, table(["time", ...series.map((one) => one.words)], rows)));
  numbers.open = open;
  figure.replaceChildren(picture, legend, numbers);
}

function table(heads, rows, caption = "") {
  return element("table", {}, caption ? element("caption", {}, caption) : null,
    element("thead", {}, element("tr", {}, ...heads.map((head, place) => element("th", place ? { scope: "col", class: "number" } : { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, place) => element("td", { "data-head": heads[place], ...(place ? { class: "number" } : {}) }, cell))))));
}

function showCampaigns(status) {
  const list = $("#campaign-list");
  const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.campaign));
  const campaigns = [...status.campaigns].sort((one, other) => (one.campaign_id < other.campaign_id ? -1 : 1));
  const made = campaigns.map((campaign) => {
    const lost = campaign.failed + campaign.given_up;
    const all = Math.max(campaign.sent + lost + campaign.to_go, 1);
    const bar = element("div", { class: "bar", role: "img", "aria-label": `${Math.floor((100 * (campaign.sent + lost)) / all)} % are done` });
    for (const [name, part] of [["sent", campaign.sent], ["lost", lost]]) {
      const piece = element("div", { class: name });
      piece.style.width = `${(100 * part) / all}%`;
      bar.append(piece);
    }
    const failures = element("details", { "data-campaign": campaign.campaign_id }, element("summary", {}, "Failures, in the server's words"), element("div", {}));
    failures.addEventListener("toggle", () => failures.open && showFailures(failures));
    const item = element("div", { class: "campaign" },
      element("div", { class: "top" }, element("h3", {}, campaign.campaign_id), element("span", {}, `${number(campaign.sent)} sent, ${number(lost)} failed${campaign.uncertain ? `, ${number(campaign.uncertain)} uncertain` : ""}, ${number(campaign.to_go)} to go`)),
      bar,
      campaign.state ? element("div", { class: "state" }, campaign.state) : null,
      progress(campaign.campaign_id),
      failures);
    failures.open = open.has(campaign.campaign_id);
    return item;
  });
  const more = status.number_of_campaigns - status.campaigns.length;
  if (more > 0) {
    made.push(element("p", {}, `and ${number(more)} more`));
  }
  list.replaceChildren(...(made.length ? made : [element("p", {}, "None is open.")]));
}

function progress(campaign) {
  const values = state.points.filter((point) => Object.hasOwn(point.campaigns, campaign)).map((point) => [point.at, point.campaigns[campaign]]);
  if (values.length < 2) {
    return null;
  }
  const [first, last] = [values[Math.max(values.length - 11, 0)], values[values.length - 1]];
  const perMinute = (60 * Math.max(last[1] - first[1], 0)) / Math.max(last[0] - first[0], 60);
  return element("small", {}, `${number(perMinute)} a minute lately; first seen at ${clock(values[0][0])}`);
}

async function showFailures(details) {
  const place = details.querySelector("div");
  try {
    const found = await ask(`api/campaign?id=${encodeURIComponent(details.dataset.campaign)}`);
    const rows = Object.entries(found.words).slice(0, 20).map(([words, count]) => [words, number(count)]);
    place.replaceChildren(rows.length ? table(["words", "recipients"], rows) : element("p", {}, "None."));
  } catch (error) {
    place.replaceChildren(element("p", {}, error.message));
  }
}

function showAccount(status) {
  const { account } = status;
  const parts = [element("p", {}, `${account.name}: ${account.stopped ? "refused" : account.slowed ? "slowed down by the provider" : "sends"}${account.speed ? `, ${account.speed.toFixed(1)} mails/s lately` : ""}.`)];
  for (const limit of account.limits) {
    const words = `${number(limit.used)} of ${number(limit.mails)} in ${duration(limit.seconds)}`;
    parts.push(element("div", {}, words, element("meter", { min: 0, max: limit.mails, value: Math.min(limit.used, limit.mails), "aria-label": words })));
  }
  if (account.slowed_at) {
    parts.push(element("p", {}, `Asked for less speed at ${clock(account.slowed_at)}: ${account.slowed_why}`));
  }
  $("#account").replaceChildren(...parts);
}

function showHosts(status) {
  const now = status.at;
  const made = table(["host", "programs", "load", "memory free", "disk free", "release", "seen"], status.hosts.map((host) => [
    host.name,
    host.programs ? `${host.running} of ${host.programs}` : "–",
    `${host.load} / ${host.cores}`,
    host.available_mb === null ? "–" : `${number(host.available_mb)} MB`,
    `${number(host.disk_free_mb)} MB`,
    host.version,
    `${duration(Math.max(now - host.at, 0))} ago`,
  ]));
  $("#hosts").replaceChildren(...made.childNodes);
}

$("#spans").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) {
    state.minutes = Number(button.dataset.minutes);
    for (const one of document.querySelectorAll("#spans button")) {
      one.setAttribute("aria-pressed", String(one === button));
    }
    showPlots();
  }
});

$("#why").addEventListener("submit", async (event) => {
  event.preventDefault();
  const place = $("#answer");
  place.replaceChildren(element("p", {}, "Looking…"));
  try {
    const found = await ask(`api/why?who=${encodeURIComponent($("#who").value)}`);
    place.replaceChildren(element("pre", {}, found.lines.join("\n")));
  } catch (error) {
    place.replaceChildren(element("p", { class: "state" }, error.message));
  }
});

let timer = 0;
function rest() {
  clearInterval(timer);
  if (!document.hidden) {
    load();
    timer = setInterval(load, EVERY_MS);
  }
}
document.addEventListener("visibilitychange", rest);
window.addEventListener("resize", () => state.fleet && showPlots());
setInterval(tick, 1000);
rest();
