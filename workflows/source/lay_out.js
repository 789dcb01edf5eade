// A column of nodes is as wide as its widest node; heights are the least that do not change after a run.
await app.loadApiJson(api, name);
await new Promise(done => setTimeout(done, 1200));
const graph = app.graph, GAP = 20, TITLE = 30, PAD = 10, HEAD = 74, NOTE = 310;
for (const node of graph.nodes) {
  for (const widget of node.widgets || []) if (widget.name == 'control_after_generate') widget.value = 'fixed';
  const least = node.computeSize();
  node.setSize([Math.max(least[0], width), Math.max(least[1], heights[node.type] || 0)]);
}
let left = 0;
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
    top = bottom + PAD;
  }
  left += widest + PAD;
}
const shown = note.replace(/\]\([^)]*\)/g, ']').split('\n');  // without the addresses of links
const text = LiteGraph.createNode('MarkdownNote');
text.title = 'Read me';
text.pos = [-NOTE - GAP, HEAD];
text.setSize([NOTE, 60 + shown.reduce((sum, line) => sum + (line ? 16 * Math.ceil(line.length / 46) : 10), 0)]);
text.widgets[0].value = note;
text.color = '#432';
text.bgcolor = '#653';
graph.add(text);
graph.id = id;
app.canvas.ds.scale = 0.7;  // for frontends that open at the saved view: the note first, below their menus
app.canvas.ds.offset = [NOTE + 2 * GAP + 120, 190];
app.canvas.setDirty(true, true);
return [app.graph.serialize(), (await app.graphToPrompt()).output];
