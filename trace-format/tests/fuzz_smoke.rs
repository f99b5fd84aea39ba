//! Thousands of mutated files, the same in every run: what `fuzz/` looks for at length, in some seconds. `FUZZ_ROUNDS=50`
//! does it that many times, each with other mutations.

#[path = "../fuzz/envelopes.rs"]
mod envelopes;
#[path = "../fuzz/exercise.rs"]
mod exercise;
mod sample;

use envelopes::{envelopes, pack, unpack};
use exercise::exercise;
use sample::{Random, chunks_of, one_of_each, stream, write, write_unfinished};

/// A directory that does not wait for a disk at every sync, where there is one.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn seeds(first: u64) -> impl Iterator<Item = u64> {
    let rounds = std::env::var("FUZZ_ROUNDS").map_or(1, |rounds| rounds.parse().expect("FUZZ_ROUNDS is a number"));
    (0..rounds).map(move |round| first + round * 10)
}

/// Changes some bytes: flips, numbers of consequence, copies from elsewhere, insertions, deletions.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let length = bytes.len() as u64;
        if length == 0 {
            return;
        }
        let at = random.below(length) as usize;
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
            3 => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill([0, 0xff][random.below(2) as usize]);
            }
            4 => {
                let count = random.below(16.min(length - at as u64) + 1) as usize;
                let from = random.below(length - count as u64 + 1) as usize;
                bytes.copy_within(from..from + count, at);
            }
            5 => {
                let end = bytes.len().min(at + random.below(64) as usize);
                bytes.drain(at..end);
            }
            _ => bytes.splice(at..at, (0..random.below(40)).map(|index| (index * 37) as u8)).for_each(drop),
        }
    }
}

fn files() -> Vec<Vec<u8>> {
    let events = [one_of_each(), stream(60, 1)].map(|events| (write(&events, chunks_of(9)).0, events));
    let unfinished: Vec<_> = events.iter().map(|(_, events)| write_unfinished(events, chunks_of(9))).collect();
    events.into_iter().map(|(bytes, _)| bytes).chain(unfinished).collect()
}

#[test]
fn mutated_files() {
    let directory = memory();
    let files = files();
    for seed in seeds(1) {
        let (mut random, mut opened) = (Random(seed), 0);
        for case in 0..1500 {
            let mut bytes = files[case % files.len()].clone();
            mutate(&mut bytes, &mut random);
            opened += usize::from(exercise(&bytes, directory.path()));
        }
        assert!((500..1500).contains(&opened), "{opened} of 1500 open: the mutations are too mild or too wild");
    }
}

/// Mutations below the checksums.
#[test]
fn mutated_messages() {
    let directory = memory();
    let files = files();
    for (mut random, case) in seeds(2).flat_map(|seed| (0..3000).map(move |case| (Random(seed * 10_000 + case), case)))
    {
        let sound = &files[case as usize % files.len()];
        let all = envelopes(sound);
        let (offset, kind, length) = all[random.below(all.len() as u64) as usize];
        let mut message = unpack(sound, offset, length);
        mutate(&mut message, &mut random);
        message.resize(message.len().next_multiple_of(8), 0);
        let kind = if random.below(10) == 0 { random.below(7) as u8 } else { kind };
        let mut bytes = sound.clone();
        bytes.splice(offset..offset + length, pack(kind, &message));
        assert!(exercise(&bytes, directory.path()), "the rest of the file is sound");
    }
}

/// Envelopes in another order, twice, left out, and of two files mixed.
#[test]
fn shuffled_envelopes() {
    let directory = memory();
    let files = files();
    for mut random in seeds(3).flat_map(|seed| (0..500).map(move |case| Random(seed * 10_000 + case))) {
        let mut bytes = files[0][..16].to_vec();
        for _ in 0..random.below(12) {
            let file = &files[random.below(files.len() as u64) as usize];
            let all = envelopes(file);
            let (offset, _, length) = all[random.below(all.len() as u64) as usize];
            bytes.extend(&file[offset..offset + length]);
        }
        exercise(&bytes, directory.path());
    }
}
