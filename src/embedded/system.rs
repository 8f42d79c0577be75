//! What depends on the operating system: who may read our files, and on what kind of file system they lie.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    path::Path,
};

/// File systems of other machines, where neither kernel locks nor SQLite's shared memory can be relied upon.
const NETWORK: [&str; 24] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "coda",
    "lustre",
    "ncpfs",
    "ocfs2",
    "gfs2",
    "beegfs",
    "davfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.gcsfuse",
    "fuse.blobfuse2",
    "fuse.davfs",
];

/// Makes a folder, and those above it, that nobody else may look into. One that is there stays as it is.
pub(super) fn make_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a file that nobody else may read; an error when it is there already.
pub(super) fn make_private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Takes an existing file away from everybody else's eyes, without opening it: closing any descriptor of a database
/// drops the locks that SQLite holds on it in this process.
#[cfg_attr(not(unix), expect(unused_variables, clippy::unnecessary_wraps, reason = "files have no mode here"))]
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let mode = |permissions: &std::fs::Permissions| std::os::unix::fs::PermissionsExt::mode(permissions);
        let found = path.metadata()?.permissions();
        if mode(&found) & 0o077 != 0 {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
    }
    Ok(())
}

/// The kind of the network file system that this path lies on; none when it is local or nobody can tell.
pub(super) fn network_file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    kind_of_mount(&mounts, path).filter(|kind| NETWORK.contains(&kind.as_str()))
}

/// The kind of file system under an absolute path, from the text of `/proc/self/mountinfo`: the longest mount point that
/// contains it, of equals the last. Format: proc(5), `36 35 98:0 /root /mount options [optional…] - kind source options`.
fn kind_of_mount(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((place, file_system)) = line.split_once(" - ") else { continue };
        let Some(point) = place.split(' ').nth(4).map(unescaped) else { continue };
        let Some(kind) = file_system.split(' ').next() else { continue };
        let length = point.len();
        if path.starts_with(&point) && best.is_none_or(|(longest, _)| length >= longest) {
            best = Some((length, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Blanks, tabs, line ends and backslashes are written as `\` and three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some((byte, rest)) = byte.zip(part.get(3..)) {
            plain.push(char::from(byte));
            plain.push_str(rest);
        } else {
            plain.push('\\');
            plain.push_str(part);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:30 / /net rw - nfs4 server:/net rw,vers=4.2
41 40 0:31 / /net/ann/local\\040disk rw shared:3 master:7 - xfs /dev/sdb1 rw
42 22 0:32 / /mnt/build rw - fuse.sshfs ann@host: rw
43 22 0:33 / /srv rw - ext4 /dev/sdc1 rw
44 43 0:34 / /srv rw - cifs //server/share rw
45 22 0:35 / /network rw - btrfs /dev/sdd1 rw
a line of tomorrow
";

    #[test]
    fn the_innermost_and_latest_mount_decides() {
        for (path, kind) in [
            ("/var/lib/longshore", "ext4"),
            ("/net/ann/.longshore", "nfs4"),
            ("/net/ann/local disk/x", "xfs"),
            ("/mnt/build", "fuse.sshfs"),
            ("/srv/builds", "cifs"),
            ("/network/x", "btrfs"),
        ] {
            assert_eq!(kind_of_mount(MOUNTS, Path::new(path)).as_deref(), Some(kind), "{path}");
        }
    }

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        for kind in ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"] {
            assert!(NETWORK.contains(&kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.gvfsd"] {
            assert!(!NETWORK.contains(&kind), "{kind}");
        }
        assert_eq!(network_file_system(&std::env::temp_dir().canonicalize().unwrap()), None);
    }

    #[cfg(unix)]
    #[test]
    fn what_we_make_is_for_our_eyes_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        make_private_folder(&deep).unwrap();
        make_private_folder(&deep).unwrap();
        let file = deep.join("file");
        make_private_file(&file).unwrap();
        assert!(make_private_file(&file).is_err());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&deep), mode(&file)), (0o700, 0o600));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        make_private(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
    }
}
