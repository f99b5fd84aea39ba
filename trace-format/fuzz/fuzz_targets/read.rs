//! Reads arbitrary bytes as a trace. The first byte says how the rest is used: as a whole file, or as the message of an
//! envelope of that kind behind the sound file below, so that the fuzzer need not guess checksums.

#![no_main]

#[path = "../envelopes.rs"]
#[allow(dead_code, reason = "the smoke test uses the rest")]
mod envelopes;
#[path = "../exercise.rs"]
mod exercise;

use libfuzzer_sys::fuzz_target;

const SOUND: &[u8] = include_bytes!("../../tests/versions/v1.htape");

fuzz_target!(|input: &[u8]| {
    let Some((&mode, rest)) = input.split_first() else { return };
    let kind = mode % 6;
    let bytes = if kind == 0 {
        rest.to_vec()
    } else {
        let mut message = rest.to_vec();
        message.resize(rest.len().next_multiple_of(8), 0);
        // Without its own tail the sound file is read chunk by chunk, the new envelope among them.
        let tail = envelopes::envelopes(SOUND).into_iter().find(|(_, kind, _)| *kind > 2);
        let mut bytes = SOUND[..tail.map_or(SOUND.len(), |(offset, _, _)| offset)].to_vec();
        bytes.extend(envelopes::pack(kind, &message));
        bytes
    };
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    exercise::exercise(&bytes, directory.path());
});
