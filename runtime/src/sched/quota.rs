//! How many CPUs the process may use: its affinity, and the CPU quota of its control group and of all groups above it.
//!
//! ```text
//!   /proc/self/mountinfo  where the hierarchies are mounted          /proc/self/cgroup  where in them this process is
//!                              └────────────┬──────────────────────────────┘
//!   mount point / a / b / c  ── every directory from the own one up to the mount point is looked at, the least counts
//!     v2: cpu.max  "quota period"           v1: cpu.cfs_quota_us, cpu.cfs_period_us
//! ```
//!
//! A quota of one and a half CPUs is two: less could not use it up. Inside a container the groups above the mount point
//! cannot be seen; those below can, however deep.

use std::{
    cell::Cell,
    fs,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    num::NonZero,
    path::{Path, PathBuf},
    thread,
};

/// The number of CPUs that the process may use now, at least 1, as far as the system says it.
pub(crate) fn cpus() -> usize {
    cpus_if_known().unwrap_or_else(affinity)
}

/// The same; `None` if the system cannot say it just now, as when the process has too many files open.
pub(super) fn cpus_if_known() -> Option<usize> {
    let known = Cell::new(true);
    let quota = quota(&|path| {
        let text = fs::read(path);
        let absent = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
        known.set(known.get() && text.as_ref().err().is_none_or(absent));
        text.ok().map(|text| String::from_utf8_lossy(&text).into_owned()) // a mount may have any name
    });
    known.get().then(|| affinity().min(quota.unwrap_or(usize::MAX)))
}

/// CPUs that this process may run on.
fn affinity() -> usize {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: fills a set that lives here, and counts its bits.
    let n = unsafe {
        match libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) {
            0 => libc::CPU_COUNT(set.assume_init_ref()),
            _ => 0,
        }
    };
    match usize::try_from(n) {
        Ok(n) if n > 0 => n,
        _ => thread::available_parallelism().map_or(1, NonZero::get), // more CPUs than the set has bits
    }
}

/// The version of a hierarchy of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The least quota of all control groups of this process, in CPUs, rounded up; `None` without one. `read` gives the text of a
/// file, if there is such a file.
fn quota(read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let quotas = mounts.lines().filter_map(mount).filter_map(|(version, root, at)| {
        let group = groups.lines().find_map(|line| group(line, version))?;
        // What is mounted may be a part of the hierarchy; a group outside of that part is seen at its top.
        let below = group.strip_prefix(&root).unwrap_or_else(|_| Path::new(""));
        let own = at.join(below);
        let up = own.ancestors().take_while(|dir| dir.starts_with(&at));
        up.filter_map(|dir| quota_of(version, dir, read)).min()
    });
    quotas.min()
}

/// A line of mountinfo: if it mounts a hierarchy with CPU quotas, its version, which part of it is mounted, and where.
fn mount(line: &str) -> Option<(Version, PathBuf, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, at) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup2" => Version::V2,
        "cgroup" if right.nth(1)?.split(',').any(|option| option == "cpu") => Version::V1,
        _ => return None,
    };
    Some((version, root, at))
}

/// A path of mountinfo, where a space is `\040` and a backslash is `\134`.
fn unescape(path: &str) -> PathBuf {
    path.replace("\\040", " ").replace("\\134", "\\").into()
}

/// A line of /proc/self/cgroup: the group of this process in the hierarchy of that version.
fn group(line: &str, version: Version) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let here = match version {
        Version::V2 => number == "0" && controllers.is_empty(),
        Version::V1 => controllers.split(',').any(|controller| controller == "cpu"),
    };
    here.then(|| path.into())
}

/// The quota that a directory sets, in CPUs, rounded up.
fn quota_of(version: Version, dir: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let (quota, period) = match version {
        Version::V2 => {
            let text = read(&dir.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        Version::V1 => (
            read(&dir.join("cpu.cfs_quota_us"))?,
            read(&dir.join("cpu.cfs_period_us"))?,
        ),
    };
    // "max" and -1 are no numbers here: no quota.
    let (quota, period): (usize, usize) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// The quota in a system that has these files.
    fn with(files: &[(&str, &str)]) -> Option<usize> {
        let files: HashMap<&Path, &str> = files.iter().map(|&(path, text)| (Path::new(path), text)).collect();
        quota(&|path| files.get(path).map(ToString::to_string))
    }

    const V2: (&str, &str) = (
        "/proc/self/mountinfo",
        "22 1 0:20 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    );
    const V1: (&str, &str) = (
        "/proc/self/mountinfo",
        "33 32 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         34 32 0:30 /docker/x /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
    );

    #[test]
    fn without_groups_there_is_no_quota() {
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[V2]), None);
        assert_eq!(with(&[V2, ("/proc/self/cgroup", "0::/a\n")]), None);
        assert_eq!(
            with(&[
                V2,
                ("/proc/self/cgroup", "0::/a\n"),
                ("/sys/fs/cgroup/a/cpu.max", "max 100000\n")
            ]),
            None
        );
    }

    #[test]
    fn the_least_of_all_groups_above_counts() {
        let group = ("/proc/self/cgroup", "0::/a/b/c\n");
        let own = ("/sys/fs/cgroup/a/b/c/cpu.max", "800000 100000\n");
        let parent = ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
        let above = ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
        assert_eq!(with(&[V2, group, own]), Some(8));
        assert_eq!(with(&[V2, group, own, parent, above]), Some(2));
        let outside = ("/sys/fs/cpu.max", "100000 100000\n"); // above the mount point
        assert_eq!(with(&[V2, group, own, outside]), Some(8));
    }

    #[test]
    fn less_than_a_cpu_is_one() {
        let group = ("/proc/self/cgroup", "0::/\n");
        assert_eq!(with(&[V2, group, ("/sys/fs/cgroup/cpu.max", "2000 100000\n")]), Some(1));
        assert_eq!(with(&[V2, group, ("/sys/fs/cgroup/cpu.max", "0 100000\n")]), Some(1));
        assert_eq!(with(&[V2, group, ("/sys/fs/cgroup/cpu.max", "nonsense\n")]), None);
    }

    #[test]
    fn version_1_in_a_container() {
        let group = (
            "/proc/self/cgroup",
            "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x/sub\n0::/init\n",
        );
        let quota = ("/sys/fs/cgroup/cpu,cpuacct/sub/cpu.cfs_quota_us", "-1\n");
        let period = ("/sys/fs/cgroup/cpu,cpuacct/sub/cpu.cfs_period_us", "100000\n");
        let parent_quota = ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
        let parent_period = ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!(with(&[V1, group, quota, period]), None);
        assert_eq!(with(&[V1, group, quota, period, parent_quota, parent_period]), Some(3));
    }

    #[test]
    fn mount_points_may_have_spaces() {
        let mounts = (
            "/proc/self/mountinfo",
            "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n",
        );
        let group = ("/proc/self/cgroup", "0::/a\n");
        assert_eq!(
            with(&[mounts, group, ("/my groups/a/cpu.max", "300000 100000")]),
            Some(3)
        );
    }

    #[test]
    fn this_process_may_use_a_cpu() {
        assert!(cpus() >= 1);
    }
}
