// A plain server; PM2's cluster mode runs it as so many instances. The handler of SIGINT is what PM2's manual asks for.
const fs = require('node:fs');
const http = require('node:http');

const body = `${process.pid}\n`;
const server = http.createServer((request, response) => response.end(body));
server.listen(Number(process.env.PEERS_PORT), '127.0.0.1', () => {
  if (process.env.PEERS_READY) fs.appendFileSync(process.env.PEERS_READY, body);
});
process.on('SIGINT', () => server.close(() => process.exit(0)));
