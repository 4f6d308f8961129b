"""An extension of supervisord: a program's number of processes changes without a restart of those that stay.

`supervisorctl update` removes a group whose programs changed and adds it again. This takes the group's new
configuration over instead: processes that stay go on, and have the new options from their next start.
http://supervisord.org/xmlrpc.html, "Adding Additional RPC Interfaces"
"""

from supervisor.supervisord import SupervisorStates
from supervisor.xmlrpc import Faults, RPCError


class FleetInterface:
    """The methods `fleet.…`. Their docstrings are in the form that supervisord's own help reads."""

    def __init__(self, supervisord):
        self._supervisord = supervisord

    def wantedProcesses(self, name):  # noqa: N802 - as supervisor's own methods are named
        """The processes that a group has by the configuration that was read last.

        @param string name  name of the process group
        @return array result  names of its processes
        """
        return [process.name for process in self._wanted(name).process_configs]

    def adoptGroup(self, name):  # noqa: N802
        """Gives a running group the configuration that was read last; those of its processes that aren't wanted any
        more must be stopped.

        @param string name  name of the process group
        @return boolean result  always True
        """
        wanted = self._wanted(name)
        group = self._supervisord.process_groups.get(name)
        if group is None:
            raise RPCError(Faults.BAD_NAME, name)
        configs = {config.name: config for config in wanted.process_configs}
        too_many = [process for process in group.get_unstopped_processes() if process.config.name not in configs]
        if too_many:
            raise RPCError(Faults.STILL_RUNNING, too_many[0].config.name)
        for process_name in group.processes.keys() - configs.keys():
            del group.processes[process_name]
        for process_name, config in configs.items():
            if process_name in group.processes:
                group.processes[process_name].config = config
            else:
                config.create_autochildlogs()
                group.processes[process_name] = config.make_process(group)
        group.config = wanted
        return True

    def _wanted(self, name):
        if self._supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)
        for config in self._supervisord.options.process_group_configs:
            if config.name == name:
                return config
        raise RPCError(Faults.BAD_NAME, name)


def make(supervisord, **config):
    """What supervisord's configuration names as rpcinterface_factory."""
    return FleetInterface(supervisord)
