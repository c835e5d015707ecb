//! Appending from futures, without a runtime: any executor will do, here one of fifteen lines.
//!
//! `cargo run --example asynchronous [FOLDER]`

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use forebay::{Block, Config, Engine};

/// Wakes the thread that waits for a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    let engine = Engine::open(Config::new(dir).wal_level(2).wal_fsync_period_ms(0))?;
    let writer = engine.writer("plant7")?;
    let safe = block_on(async {
        // Sixteen blocks are on their way together; they share fsyncs.
        let tickets: Result<Vec<_>, _> =
            (0..16).map(|number: u32| writer.submit(Block::raw("blobs", number.to_le_bytes().to_vec()))).collect();
        let mut safe = 0;
        for ticket in tickets? {
            ticket.await?;
            safe += 1;
        }
        // Waits for room too, where the intake is full.
        writer.append_async(Block::raw("blobs", &b"the last one"[..])).await?;
        Ok::<_, forebay::Error>(safe + 1)
    })?;
    println!("{safe} blocks are safe");
    Ok(engine.close()?)
}
