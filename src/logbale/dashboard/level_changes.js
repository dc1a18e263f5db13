// Changes of the compression level: points in its chart, a tip for the one under the pointer, and all of them in words.

import { because, element, fill, text, texts, visible } from "./dom.js";
import { moment } from "./format.js";
import { tone } from "./plot.js";

const NEAR = 8; // px between the pointer and the change that it means
const LISTED = 50;

const step = ({ from, to }) => `${from} → ${to}`;
const whose = ({ host, stream, reason }) => `${visible(host || stream, 60)}: ${because(reason)}`;

export class LevelChanges {
  changes = [];

  constructor(view) {
    this.view = view;
    this.tip = element("p", "tip");
    this.tip.hidden = true;
    this.list = element("ol", "changes");
    this.list.tabIndex = 0;
    this.list.setAttribute("aria-label", "Changes of the compression level, newest first");
  }

  show(changes) {
    this.changes = changes;
    this.list.classList.toggle("none", changes.length === 0);
    fill(
      this.list,
      changes.length ? changes.slice(-LISTED).reverse() : [null],
      () => element("li", "", element("time"), element("b"), element("span")),
      (row, change) =>
        texts(row, change ? [moment(change.time), step(change), whose(change)] : ["No change in this time.", "", ""]),
    );
  }

  // From the old level to the new one, which gets the point: the line is a mean over shippers, this is one of them.
  draw(plot) {
    const { ctx } = plot;
    ctx.save();
    ctx.fillStyle = ctx.strokeStyle = tone("level");
    ctx.lineWidth = devicePixelRatio;
    for (const { time, from, to } of this.changes) {
      if (time < this.view.from || time > this.view.to) continue;
      const x = plot.valToPos(time, "x", true);
      const y = plot.valToPos(to, "y", true);
      ctx.beginPath();
      ctx.moveTo(x, plot.valToPos(from, "y", true));
      ctx.lineTo(x, y);
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(x, y, 3.5 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
    }
    ctx.restore();
  }

  point(plot) {
    const { left } = plot.cursor;
    const far = ({ time }) => Math.abs(plot.valToPos(time, "x") - left);
    const near = left < 0 ? [] : this.changes.filter((change) => far(change) <= NEAR);
    const change = near.sort((a, b) => far(a) - far(b))[0];
    this.tip.hidden = !change;
    if (!change) return;
    text(this.tip, `${step(change)} ${whose(change)}`);
    this.tip.classList.toggle("leftwards", left > plot.over.clientWidth / 2);
  }
}
