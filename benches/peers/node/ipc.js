// Messages between a process and one that it forked, through the channel that Node's cluster uses. Prints one JSON object per line.
// Arguments: rounds. A message is { id, data } as in benches/ipc.rs; the sender waits for every 64th write, as a program would that
// does not want its memory to grow.
const { fork } = require('node:child_process');

const SIZES = [
  [64, 300000],
  [1024, 100000],
  [65536, 5000],
];
const TRIPS = 20000;

const flood = (to, size, count) => {
  const datum = { id: 1, data: 'x'.repeat(size) };
  let sent = 0;
  const more = () => {
    while (sent < count) {
      sent += 1;
      if (sent % 64 === 0) return to.send(datum, more);
      to.send(datum);
    }
  };
  more();
};

if (process.argv[2] === 'child') {
  let awaited = 0;
  process.on('message', (message) => {
    if (message.flood) flood(process, message.flood.size, message.flood.count);
    else if (message.expect) awaited = message.expect;
    else if (awaited === 0) process.send(message);
    else if (--awaited === 0) process.send({ complete: true });
  });
} else {
  const rounds = Number(process.argv[2]) || 3;
  const child = fork(__filename, ['child'], { serialization: 'json' });
  const toMaster = (size, count) =>
    new Promise((resolve) => {
      let came = 0;
      const begun = process.hrtime.bigint();
      const listener = () => {
        came += 1;
        if (came < count) return;
        child.off('message', listener);
        resolve(count / (Number(process.hrtime.bigint() - begun) / 1e9));
      };
      child.on('message', listener);
      child.send({ flood: { size, count } });
    });
  const toWorker = (size, count) =>
    new Promise((resolve) => {
      const begun = process.hrtime.bigint();
      child.once('message', () => resolve(count / (Number(process.hrtime.bigint() - begun) / 1e9)));
      child.send({ expect: count });
      flood(child, size, count);
    });
  const trips = (size, count) =>
    new Promise((resolve) => {
      const datum = { id: 1, data: 'x'.repeat(size) };
      const took = [];
      let begun;
      const ask = () => {
        begun = process.hrtime.bigint();
        child.send(datum);
      };
      const listener = () => {
        took.push(Number(process.hrtime.bigint() - begun) / 1e3);
        if (took.length < count) return ask();
        child.off('message', listener);
        resolve(took.sort((a, b) => a - b));
      };
      child.on('message', listener);
      ask();
    });
  (async () => {
    for (const [size, count] of SIZES) {
      const rates = { toMaster: [], toWorker: [] };
      for (const [way, told] of [[toMaster, rates.toMaster], [toWorker, rates.toWorker]]) {
        await way(size, count / 10);
        for (let round = 0; round < rounds; round++) told.push(await way(size, count));
      }
      const took = await trips(size, size > 4096 ? TRIPS / 10 : TRIPS);
      const at = (percent) => took[Math.floor((took.length * percent) / 100)];
      console.log(JSON.stringify({ size, to_master: rates.toMaster, to_worker: rates.toWorker, p50_us: at(50), p99_us: at(99) }));
    }
    child.disconnect();
  })();
}
