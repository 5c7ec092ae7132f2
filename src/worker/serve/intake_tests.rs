//! What an intake accepts, and what it leaves to others.

use std::net::SocketAddr;

use super::*;

fn listener() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn intake() -> (Intake, SocketAddr, Shutdown) {
    let (own, address) = listener();
    let shutdown = Shutdown::new();
    (Intake::new(own.into(), shutdown.clone()).unwrap(), address, shutdown)
}

async fn accept(intake: &Intake) -> Option<Accepted> {
    tokio::time::timeout(Duration::from_secs(5), intake.accept())
        .await
        .unwrap()
}

#[actix_rt::test]
async fn f_120_accepting_resumes_by_itself_after_the_pause() {
    let (intake, address, _shutdown) = intake();
    let begun = clock::now();
    intake.inner.pause.replace(Some(Box::pin(tokio::time::sleep(PAUSE))));
    let _client = std::net::TcpStream::connect(address).unwrap();
    assert!(accept(&intake).await.is_some());
    assert!(clock::now().since(begun) >= PAUSE);
}

#[actix_rt::test]
async fn adopted_sockets_are_served_in_turn_and_removed_ones_not() {
    let (intake, own, shutdown) = intake();
    let (lent, lent_address) = listener();
    let mut clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(own).unwrap()).collect();
    // Wake a waiting acceptor: the socket is added while it waits.
    for _ in 0..3 {
        assert!(accept(&intake).await.is_some());
    }
    let waiting = actix_rt::spawn({
        let intake = intake.clone();
        async move { intake.accept().await }
    });
    tokio::task::yield_now().await;
    clients.push(std::net::TcpStream::connect(lent_address).unwrap());
    intake
        .add(Slot::new("other", 3), lent.try_clone().unwrap().into())
        .unwrap();
    assert!(waiting.await.unwrap().is_some());
    assert!(intake.remove(&Slot::new("other", 3)));
    assert!(!intake.remove(&Slot::new("other", 3)));
    clients.push(std::net::TcpStream::connect(lent_address).unwrap());
    shutdown.start();
    assert!(
        accept(&intake).await.is_none(),
        "the removed socket's queue is not ours"
    );
    lent.set_nonblocking(true).unwrap();
    assert!(lent.accept().is_ok(), "its connection still waits for its new owner");
}

#[actix_rt::test]
async fn connections_queued_before_the_stop_are_taken() {
    let (intake, address, shutdown) = intake();
    let clients: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    shutdown.start();
    for _ in &clients {
        assert!(accept(&intake).await.is_some());
    }
    assert!(accept(&intake).await.is_none());
    assert!(accept(&intake).await.is_none(), "and it stays so");
}

#[actix_rt::test]
async fn a_waiting_acceptor_hears_of_the_stop() {
    let (intake, _address, shutdown) = intake();
    let waiting = actix_rt::spawn(async move { intake.accept().await.is_none() });
    tokio::task::yield_now().await;
    shutdown.start();
    assert!(waiting.await.unwrap());
}

#[actix_rt::test]
async fn on_probation_the_queue_is_left_to_others_also_at_the_stop() {
    let (own, address) = listener();
    let shutdown = Shutdown::new();
    let begun = clock::now();
    let probation = Duration::from_millis(100);
    let intake = Intake::held(own.into(), shutdown.clone(), probation).unwrap();
    let _client = std::net::TcpStream::connect(address).unwrap();
    assert!(intake.accept().await.is_some());
    assert!(clock::now().since(begun) >= probation);

    let (own, address) = listener();
    let kept = own.try_clone().unwrap();
    let intake = Intake::held(own.into(), shutdown.clone(), Duration::from_secs(60)).unwrap();
    let _client = std::net::TcpStream::connect(address).unwrap();
    shutdown.start();
    assert!(intake.accept().await.is_none());
    assert!(kept.accept().is_ok(), "it was not taken");
}
