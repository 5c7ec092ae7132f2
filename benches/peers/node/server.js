// Node's cluster, as its manual shows it. Arguments: port, workers, "rr" or "none".
// SIGUSR2 reloads one worker after the other: the successor listens before the predecessor disconnects. Node has no reload of its own.
const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');

const [port, workers, policy] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];

if (cluster.isPrimary) {
  cluster.schedulingPolicy = policy === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
  for (let i = 0; i < workers; i++) cluster.fork();
  let stopping = false;
  cluster.on('exit', (worker) => {
    if (!stopping && !worker.exitedAfterDisconnect) cluster.fork();
  });
  process.on('SIGUSR2', () => {
    const old = Object.values(cluster.workers);
    const next = () => {
      const predecessor = old.shift();
      if (!predecessor) return;
      cluster.fork().once('listening', () => {
        predecessor.once('exit', next);
        predecessor.disconnect();
      });
    };
    next();
  });
  process.on('SIGTERM', () => {
    stopping = true;
    cluster.disconnect(() => process.exit(0));
  });
} else {
  const body = `${process.pid}\n`;
  http
    .createServer((request, response) => response.end(body))
    .listen(port, '127.0.0.1', () => {
      if (process.env.PEERS_READY) fs.appendFileSync(process.env.PEERS_READY, body);
    });
}
