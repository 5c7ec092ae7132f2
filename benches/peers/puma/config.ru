# An empty Rack application; its body is the process that answers.
run ->(_env) { [200, { 'content-type' => 'text/plain' }, ["#{Process.pid}\n"]] }
