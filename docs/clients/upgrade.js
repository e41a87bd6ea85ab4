// Stage the newest version of the host's image and show how far it is: gjs -m upgrade.js
import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import System from 'system';

const ROOT = '/org/bootcd1', JOB = 'org.bootcd1.Job', PROPERTIES = 'org.freedesktop.DBus.Properties';
const bus = Gio.bus_get_sync(Gio.BusType.SYSTEM, null);
const loop = GLib.MainLoop.new(null, false);
let status = 0;

function call(path, iface, member, parameters, done) {
    // A person is here who may be asked for a password; that and a whole upgrade take longer than 25 seconds.
    const flags = Gio.DBusCallFlags.ALLOW_INTERACTIVE_AUTHORIZATION, forever = GLib.MAXINT32;
    bus.call('org.bootcd1', path, iface, member, parameters, null, flags, forever, null, (_, result) => {
        try {
            done(bus.call_finish(result).recursiveUnpack());
        } catch (error) { // a sentence, and on a second line what to do
            printerr(Gio.DBusError.get_remote_error(error));
            Gio.DBusError.strip_remote_error(error);
            printerr(error.message);
            status = 1;
            loop.quit();
        }
    });
}

// Listen before asking, so that no step is missed.
bus.signal_subscribe('org.bootcd1', PROPERTIES, 'PropertiesChanged', null, JOB, Gio.DBusSignalFlags.NONE,
    (_bus, _sender, _path, _iface, _signal, parameters) => {
        const [, changed] = parameters.recursiveUnpack();
        if (changed.Progress >= 0) // -1: not known yet
            print(`${(changed.Phase ?? '').padEnd(8)} ${Math.round(changed.Progress * 100)}%`);
    });
call(ROOT, 'org.bootcd1.Manager', 'Upgrade', new GLib.Variant('(a{sv})', [{}]), ([job]) => {
    call(job, JOB, 'Wait', new GLib.Variant('(a{sv})', [{}]), ([result, outcome]) => {
        call(job, PROPERTIES, 'GetAll', new GLib.Variant('(s)', [JOB]), ([ended]) => {
            if (result === 'failed')
                printerr(`${ended.ErrorMessage}\n${ended.ErrorHint}`);
            else
                print(outcome.changed ? `${result}: ${outcome.version} at the next boot` : `${result}: no change`);
            status = result === 'failed' ? 1 : 0;
            loop.quit();
        });
    });
});
loop.run();
System.exit(status);
