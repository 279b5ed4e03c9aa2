use std::{net::Ipv4Addr, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, future::join};

use super::*;
use crate::workers::spawn;

async fn pair() -> (Source<TcpStream>, Source<TcpStream>) {
    let listener = Source::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let at = listener.get_ref().local_addr().unwrap();
    let (ours, theirs) = join(Source::connect(at), listener.accept()).await;
    (ours.unwrap(), theirs.unwrap().0)
}

/// Sends a byte and waits for it so many times.
async fn ask(socket: Source<TcpStream>, times: usize) {
    for _ in 0..times {
        (&socket).write_all(b"x").await.unwrap();
        (&socket).read_exact(&mut [0]).await.unwrap();
    }
}

async fn answer(socket: Source<TcpStream>) {
    let mut byte = [0];
    while (&socket).read_exact(&mut byte).await.is_ok() {
        (&socket).write_all(&byte).await.unwrap();
    }
}

#[test]
fn no_wake_up_is_lost_among_many_tasks() {
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            spawn(async {
                let (ours, theirs) = pair().await;
                let answering = spawn(answer(theirs));
                ask(ours, 300).await;
                answering.await;
            })
        })
        .collect();
    tasks.into_iter().for_each(smol::block_on);
}

#[test]
fn a_task_of_any_executor_may_wait() {
    smol::block_on(async {
        let (ours, theirs) = pair().await;
        join(ask(ours, 300), answer(theirs)).await;
    });
}

#[test]
fn both_sides_are_waited_for_at_once_and_each_is_told() {
    smol::block_on(async {
        let (ours, theirs) = pair().await;
        let chunk = vec![7; 1 << 20];
        let writing = async {
            for _ in 0..16 {
                (&ours).write_all(&chunk).await.unwrap();
            }
            ours.end().unwrap();
        };
        let reading_back = async {
            let mut byte = [0];
            (&ours).read_exact(&mut byte).await.unwrap();
            byte
        };
        let other = async {
            // Until the writer is held up, so that one task waits on both sides of one socket.
            smol::Timer::after(Duration::from_millis(50)).await;
            (&theirs).write_all(b"y").await.unwrap();
            let mut all = Vec::new();
            (&theirs).read_to_end(&mut all).await.unwrap();
            all.len()
        };
        let ((_, byte), len) = join(join(writing, reading_back), other).await;
        assert_eq!((byte, len), (*b"y", 16 << 20));
    });
}

#[test]
fn an_end_behind_the_last_bytes_is_seen() {
    smol::block_on(async {
        for _ in 0..200 {
            let (ours, theirs) = pair().await;
            (&ours).write_all(b"last").await.unwrap();
            ours.end().unwrap();
            let mut all = Vec::new();
            (&theirs).read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"last");
        }
    });
}

#[test]
fn a_refused_connection_is_an_error() {
    smol::block_on(async {
        let nobody = Source::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap().get_ref().local_addr().unwrap();
        assert_eq!(Source::connect(nobody).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_socket_given_back_is_not_waited_for_and_may_be_again() {
    smol::block_on(async {
        let (ours, theirs) = pair().await;
        assert!((&theirs).read(&mut [0]).now_or_never().is_none());
        let theirs = Source::new(theirs.into_inner().unwrap()).unwrap();
        join(ask(ours, 10), answer(theirs)).await;
    });
}

#[test]
fn one_that_gives_way_lets_others_run() {
    let (told, heard) = smol::channel::bounded::<()>(1);
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let heard = heard.clone();
            spawn(async move {
                while heard.is_empty() {
                    smol::future::yield_now().await;
                }
            })
        })
        .collect();
    let asking = spawn(async move {
        let (ours, theirs) = pair().await;
        let answering = spawn(answer(theirs));
        ask(ours, 100).await;
        answering.await;
        told.send(()).await.unwrap();
    });
    smol::block_on(asking);
    busy.into_iter().for_each(smol::block_on);
}
