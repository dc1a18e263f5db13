// Tests lines against a regular expression, in a thread of its own: (a+)+$ takes minutes on 40 characters, and only a
// worker can be ended then (line_regex.js does). In: {source, lines}. Out: "ready" once, then which lines match.

onmessage = ({ data: { source, lines } }) => {
  const regex = new RegExp(source);
  postMessage(lines.map((line) => regex.test(line)));
};
postMessage("ready");
