# Puma in cluster mode; no preloading, so that it can be restarted in phases.
bind "tcp://127.0.0.1:#{ENV.fetch('PEERS_PORT')}"
workers Integer(ENV.fetch('PEERS_WORKERS'))
threads 5, 5
environment 'production'
on_worker_boot do
  ready = ENV['PEERS_READY']
  File.open(ready, 'a') { |file| file.write("#{Process.pid}\n") } if ready
end
