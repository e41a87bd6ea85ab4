"""bootcd mock template

This creates org.bootcd1 with every interface, method and property of the real service, read from its
interface files: those beside this file's repository, or installed in /usr/share/dbus-1/interfaces; the
parameter "interfaces" names another directory. Any other parameter is a property of Manager to begin with.

The methods that start a job add a job object that runs until the test says otherwise:
SetJob(path, properties) changes it, EndJob(path, result, outcome, error, message) ends it as the service
does. AddDeployment(role, version) adds a deployment and points Manager at it. Wait answers at once with
the state as it is, because a mock method cannot wait; JobRemoved comes at the end as from the service.
"""

__author__ = "The bootcd authors"

import glob
import os
import time
import uuid
import xml.etree.ElementTree as ET

import dbus
from dbusmock import MOCK_IFACE, get_object

BUS_NAME = "org.bootcd1"
MAIN_OBJ = "/org/bootcd1"
MAIN_IFACE = "org.bootcd1.Manager"
SYSTEM_BUS = True
IS_OBJECT_MANAGER = True

JOB_IFACE = "org.bootcd1.Job"
DEPLOYMENT_IFACE = "org.bootcd1.Deployment"
KINDS = {
    "Check": "check",
    "Upgrade": "upgrade",
    "Switch": "switch",
    "Rollback": "rollback",
    "Apply": "apply",
    "SetKernelArguments": "kernel-arguments",
    "Pin": "pin",
    "Unpin": "unpin",
    "Drop": "drop",
    "OverlayUsr": "usr-overlay",
}
PLAIN = {
    "s": dbus.String(""),
    "o": dbus.ObjectPath("/"),
    "b": dbus.Boolean(False),
    "d": dbus.Double(0.0),
    "u": dbus.UInt32(0),
    "t": dbus.UInt64(0),
    "x": dbus.Int64(0),
    "(sst)": dbus.Struct(("", "", dbus.UInt64(0))),
    "(tt)": dbus.Struct((dbus.UInt64(0), dbus.UInt64(0))),
}
DOCUMENT = (
    'import os; fd = os.memfd_create("document"); os.write(fd, b"{}"); os.lseek(fd, 0, 0); '
    "ret = dbus.types.UnixFd(fd)"
)


def blank(kind):
    """Return the value of a type that says nothing"""

    if kind.startswith("a{"):
        return dbus.Dictionary({}, signature=kind[2:-1])
    if kind.startswith("a"):
        return dbus.Array([], signature=kind[1:])
    return PLAIN[kind]


def read_interfaces(directory):
    """Return methods and property types by interface"""

    here = os.path.dirname(os.path.abspath(globals().get("__file__", "")))
    places = [directory] if directory else [os.path.join(here, "../../dbus"), "/usr/share/dbus-1/interfaces"]
    files = next(
        (found for found in (sorted(glob.glob(p + "/org.bootcd1.*.xml")) for p in places) if found), []
    )
    interfaces = {}
    for file in files:
        for node in ET.parse(file).iter("interface"):
            methods = [
                (method.get("name"),)
                + tuple(
                    "".join(arg.get("type") for arg in method.findall("arg") if arg.get("direction") == way)
                    for way in ("in", "out")
                )
                for method in node.findall("method")
            ]
            properties = {item.get("name"): item.get("type") for item in node.findall("property")}
            interfaces[node.get("name")] = (methods, properties)
    if MAIN_IFACE not in interfaces:
        raise ValueError("there are no files org.bootcd1.*.xml in " + " or ".join(places))
    return interfaces


def code_of(name, method, answer):
    if name == MAIN_IFACE and method in KINDS:
        image = "str(args[0])" if method == "Switch" else '""'
        return f'ret = self.StartJob("{KINDS[method]}", {image})'
    if name == JOB_IFACE and method == "Cancel":
        return 'objects["/org/bootcd1"].EndJob(self.path, "cancelled", {}, "", "")'
    if name == JOB_IFACE and method == "Wait":
        return f'ret = (self.props["{JOB_IFACE}"]["State"], self.props["{JOB_IFACE}"]["Outcome"])'
    if method == "GetStatus":
        return 'ret = "{}"'
    if answer == "h":
        return DOCUMENT
    return f'ret = objects["/org/bootcd1"].bootcd_blank("{answer}")' if answer else ""


def methods_of(mock, name):
    return [
        (method, given, answer, code_of(name, method, answer))
        for method, given, answer in mock.bootcd_interfaces[name][0]
    ]


def load(mock, parameters):
    mock.bootcd_interfaces = read_interfaces(str(parameters.pop("interfaces", "")))
    mock.bootcd_blank = blank
    mock.bootcd_jobs = 0
    for name, (_, properties) in mock.bootcd_interfaces.items():
        if name in (JOB_IFACE, DEPLOYMENT_IFACE):
            continue
        mock.AddMethods(name, methods_of(mock, name))
        mock.AddProperties(name, {key: blank(kind) for key, kind in properties.items()})
    for key, value in {"State": "idle", "Version": "0.0.0", "Backend": "ostree", "Mode": "check"}.items():
        mock.props[MAIN_IFACE][key] = dbus.String(value)
    mock.props[MAIN_IFACE].update(parameters)


def change(mock, name, values):
    # Not UpdateProperties, which some versions of dbusmock do not let have paths and dictionaries.
    mock.props[name].update(values)
    changed = (name, dbus.Dictionary(values, signature="sv"), dbus.Array([], signature="s"))
    mock.EmitSignal("org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", changed)


def add(mock, path, name, values):
    properties = {key: blank(kind) for key, kind in mock.bootcd_interfaces[name][1].items()}
    properties.update(values)
    mock.AddObject(path, name, properties, methods_of(mock, name))
    mock.object_manager_emit_added(path)


@dbus.service.method(MOCK_IFACE, in_signature="ss", out_signature="o")
def AddDeployment(self, role, version):
    """Add a deployment in the role booted, staged, rollback or other"""

    checksum = uuid.uuid4().hex * 2
    path = dbus.ObjectPath(f"{MAIN_OBJ}/deployment/_{checksum}_0")
    add(
        self,
        path,
        DEPLOYMENT_IFACE,
        {
            "Id": f"{checksum}.0",
            "Role": role,
            "Version": version,
            "Image": "registry.example/os:stable",
            "Transport": "registry",
            "Digest": f"sha256:{checksum}",
            "Stateroot": "default",
        },
    )
    if role in ("booted", "staged", "rollback"):
        change(self, MAIN_IFACE, {role.title(): path})
    return path


@dbus.service.method(MOCK_IFACE, in_signature="ss", out_signature="o")
def StartJob(self, kind, image):
    """Start a job, as the methods of Manager do"""

    self.bootcd_jobs += 1
    path = dbus.ObjectPath(f"{MAIN_OBJ}/job/_{self.bootcd_jobs}")
    name = str(uuid.uuid4())
    add(
        self,
        path,
        JOB_IFACE,
        {
            "Uuid": name,
            "Kind": kind,
            "Image": image,
            "State": "running",
            "Phase": "prepare",
            "Progress": dbus.Double(-1.0),
            "Cancellable": dbus.Boolean(True),
            "Created": dbus.UInt64(time.time_ns() // 1000),
        },
    )
    self.EmitSignal(MAIN_IFACE, "JobNew", "oss", (path, name, kind))
    change(self, MAIN_IFACE, {"ActiveJob": path})
    return path


@dbus.service.method(MOCK_IFACE, in_signature="oa{sv}", out_signature="")
def SetJob(self, path, properties):
    """Change properties of a job, such as Phase and Progress"""

    change(get_object(path), JOB_IFACE, properties)


@dbus.service.method(MOCK_IFACE, in_signature="osa{sv}ss", out_signature="")
def EndJob(self, path, result, outcome, error, message):
    '''End a job: "done", "failed" (with the full name of an error), "cancelled" or "interrupted"'''

    job = get_object(path)
    outcome = dbus.Dictionary(outcome, signature="sv")
    change(
        job,
        JOB_IFACE,
        {
            "State": result,
            "Outcome": outcome,
            "ErrorName": error,
            "ErrorMessage": message,
            "Finished": dbus.UInt64(time.time_ns() // 1000),
            "Cancellable": dbus.Boolean(False),
        },
    )
    shown = job.props[JOB_IFACE]
    self.EmitSignal(
        MAIN_IFACE, "JobRemoved", "osssa{sv}", (path, shown["Uuid"], shown["Kind"], result, outcome)
    )
    if outcome.get("reboot"):
        details = {
            "job": dbus.ObjectPath(path),
            "uuid": shown["Uuid"],
            "soft-reboot": dbus.Boolean(False),
            "uid": dbus.UInt32(0),
        }
        told = (dbus.UInt64(time.time_ns() // 1000), shown["Kind"], dbus.Dictionary(details, signature="sv"))
        self.EmitSignal(MAIN_IFACE, "RebootScheduled", "tsa{sv}", told)
    change(self, MAIN_IFACE, {"ActiveJob": dbus.ObjectPath("/")})
