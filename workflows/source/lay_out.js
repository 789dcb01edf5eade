await app.loadApiJson(api, name);
await new Promise(done => setTimeout(done, 1200));
const graph = app.graph, GAP = 40, TITLE = 34, PAD = 20, HEAD = 80;
for (const node of graph.nodes) {
  for (const widget of node.widgets || []) if (widget.name == 'control_after_generate') widget.value = 'fixed';
  const least = node.computeSize(), asked = sizes[node.id] || sizes[node.type] || [270, 0];
  node.setSize([Math.max(least[0], asked[0]), Math.max(least[1], asked[1])]);
}
let left = 0, deepest = 0;
for (const stack of groups) {
  let top = 0, widest = 0;
  for (const [title, colour, columns] of stack) {
    let x = left + PAD, bottom = top;
    for (const column of columns) {
      let y = top + HEAD, wide = 0;
      for (const id of column) {
        const node = graph.getNodeById(id);
        node.pos = [x, y];
        y += node.size[1] + TITLE + GAP;
        wide = Math.max(wide, node.size[0]);
      }
      for (const id of column) graph.getNodeById(id).setSize([wide, graph.getNodeById(id).size[1]]);
      bottom = Math.max(bottom, y - TITLE - GAP + PAD);
      x += wide + GAP;
    }
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [left, top];
    group.size = [x - GAP + PAD - left, bottom - top];
    group.color = colour;
    graph.add(group);
    widest = Math.max(widest, group.size[0]);
    top = bottom + GAP;
  }
  left += widest + GAP;
  deepest = Math.max(deepest, top);
}
const text = LiteGraph.createNode('MarkdownNote');
text.title = 'Read me';
text.pos = [-430, 30];
text.setSize([390, 130 + 20 * Math.ceil(note.length / 46) + 14 * note.split('\n').length]);
text.widgets[0].value = note;
text.color = '#432';
text.bgcolor = '#653';
graph.add(text);
graph.id = id;
app.canvas.ds.scale = 0.6;
app.canvas.ds.offset = [430 + 120, 160];
const result = [app.graph.serialize(), (await app.graphToPrompt()).output];
const scale = Math.min((innerWidth - 120) / (left + 430), (innerHeight - 180) / deepest, 1);
app.canvas.ds.scale = scale;  // all of it, for a picture
app.canvas.ds.offset = [430 + 80 / scale, 140 / scale];
app.canvas.setDirty(true, true);
await new Promise(done => setTimeout(done, 1200));
return result;
