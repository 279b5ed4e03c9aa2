use std::fs;

use super::*;

fn request(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = [&[kind][..], &7_u32.to_be_bytes()].concat().into_iter().chain(fields.concat()).collect();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn answers(requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut output = Vec::new();
    serve(&requests.concat()[..], &mut output).unwrap();
    let mut rest = &output[..];
    std::iter::from_fn(|| read(&mut rest).unwrap()).collect()
}

/// The code of an answer that is a status.
fn code(answer: &[u8]) -> Option<u32> {
    (answer[0] == 101).then(|| u32::from_be_bytes(answer[5..9].try_into().unwrap()))
}

#[test]
fn a_file_is_written_and_read_back() {
    let file = std::env::temp_dir().join(format!("hive-sftp-{}", std::process::id()));
    let path = text(file.to_str().unwrap());
    let mode = [4_u32.to_be_bytes(), 0o600_u32.to_be_bytes()].concat();
    let (handle, data) = ([&4_u32.to_be_bytes()[..], &1_u32.to_be_bytes()].concat(), text("hello"));
    let (create, at) = ((1_u32 | 2 | 8).to_be_bytes(), 2_u64.to_be_bytes());
    let answers = answers(&[
        request(wire::OPEN, &[&path, &create, &mode]),
        request(wire::WRITE, &[&handle, &at, &data]),
        request(wire::READ, &[&handle, &0_u64.to_be_bytes(), &100_u32.to_be_bytes()]),
        request(wire::READ, &[&handle, &7_u64.to_be_bytes(), &100_u32.to_be_bytes()]),
        request(wire::CLOSE, &[&handle]),
        request(wire::CLOSE, &[&handle]),
    ]);
    assert_eq!(answers[0][0], wire::HANDLE);
    assert_eq!(code(&answers[1]), Some(0));
    assert_eq!(answers[2][9..], *b"\0\0hello");
    assert_eq!([3, 4, 5].map(|at| code(&answers[at])), [Some(1), Some(0), Some(4)]);
    assert_eq!(fs::read(&file).unwrap(), b"\0\0hello");
    fs::remove_file(&file).unwrap();
}

#[test]
fn what_makes_no_sense_is_answered_and_hurts_nobody() {
    let huge = u32::MAX.to_be_bytes();
    let cases: [(Vec<u8>, u32); 6] = [
        (request(99, &[]), 5),
        (request(99, &[&text("x")]), 8),
        (request(wire::STAT, &[&huge]), 5),
        (request(wire::STAT, &[&text("/does/not/exist")]), 2),
        (request(wire::READ, &[&text("a handle"), &huge, &huge]), 4),
        (request(wire::EXTENDED, &[&text("nothing@nowhere")]), 8),
    ];
    let (requests, codes): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let answered: Vec<_> = answers(&requests).iter().map(|answer| code(answer)).collect();
    assert_eq!(answered, codes.into_iter().map(Some).collect::<Vec<_>>());
    let too_long = serve(&u32::MAX.to_be_bytes()[..], &mut Vec::new()).unwrap_err();
    assert_eq!(too_long.kind(), io::ErrorKind::InvalidData);
}
