%% A supervisor over programs: one child each, which opens a port and ends when its program does.
-module(ports).
-behaviour(supervisor).
-export([main/0, init/1, start_child/3, run/4]).

main() ->
    Tiny = os:getenv("PEERS_TINY"),
    Port = os:getenv("PEERS_PORT"),
    Workers = list_to_integer(os:getenv("PEERS_WORKERS")),
    %% Its reports of every death are not part of the comparison.
    logger:set_primary_config(level, none),
    {ok, _} = supervisor:start_link({local, ?MODULE}, ?MODULE, {Tiny, Port, Workers}),
    receive stop -> ok end.

init({Tiny, Port, Workers}) ->
    Children = [
        #{id => Id, start => {?MODULE, start_child, [Id, Tiny, Port]}, shutdown => 1000}
     || Id <- lists:seq(1, Workers)
    ],
    {ok, {#{strategy => one_for_one, intensity => 1000000, period => 1}, Children}}.

start_child(Id, Tiny, Port) ->
    proc_lib:start_link(?MODULE, run, [self(), Id, Tiny, Port]).

run(Parent, _Id, Tiny, Port) ->
    process_flag(trap_exit, true),
    Opened = open_port({spawn_executable, Tiny}, [{args, ["serve-tiny", "--port", Port]}, exit_status]),
    proc_lib:init_ack(Parent, {ok, self()}),
    receive
        {Opened, {exit_status, Status}} -> exit({ended, Status});
        {'EXIT', Parent, Reason} -> exit(Reason)
    end.
