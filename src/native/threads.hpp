// A small pool of threads. Every kernel cuts its work into tasks whose results do not depend on who runs them, so the
// number of threads never changes a result; it only changes how long the caller waits.
//
// Whoever wants the threads takes a turn: one kernel at a time, from its first loop to its last. The turn also guards the
// scratch memory that kernels keep between calls, so two Python threads may call any two kernels at once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace vqrf {

class ThreadPool {
public:
    // The only way to the threads. Held while a kernel runs; a second one waits. Never taken twice by one thread.
    class Turn {
    public:
        Turn() : lock_(instance().turns_) {}

        int n_threads() const { return instance().n_threads_; }
        void set_threads(int n) const { instance().set_threads(n); }

        // Run body(task) for every task in [0, n_tasks), each exactly once, and wait for all of them. What a task throws is
        // thrown here once the others are done.
        void parallel_for(int64_t n_tasks, const std::function<void(int64_t)> &body) const {
            instance().parallel_for(n_tasks, body);
        }

    private:
        std::unique_lock<std::mutex> lock_;
    };

    ~ThreadPool() { stop(); }

private:
    ThreadPool() {
        n_threads_ = static_cast<int>(std::thread::hardware_concurrency());
        if (n_threads_ < 1) n_threads_ = 1;
        start();
    }

    static ThreadPool &instance() {
        static ThreadPool pool;
        return pool;
    }

    void set_threads(int n) {
        stop();
        n_threads_ = n < 1 ? 1 : n;
        start();
    }

    void parallel_for(int64_t n_tasks, const std::function<void(int64_t)> &body) {
        if (n_threads_ == 1 || n_tasks <= 1) {
            for (int64_t task = 0; task < n_tasks; ++task) body(task);
            return;
        }
        {
            std::lock_guard lock(mutex_);
            body_ = &body;
            n_tasks_ = n_tasks;
            next_.store(0, std::memory_order_relaxed);
            active_ = static_cast<int>(workers_.size());
            ++generation_;
        }
        wake_.notify_all();
        work();
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return active_ == 0; });
        body_ = nullptr;
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
    }

    void start() {
        quit_ = false;
        for (int i = 1; i < n_threads_; ++i) workers_.emplace_back([this, seen = generation_] { loop(seen); });
    }

    void stop() {
        {
            std::lock_guard lock(mutex_);
            quit_ = true;
        }
        wake_.notify_all();
        for (auto &worker : workers_) worker.join();
        workers_.clear();
    }

    void loop(uint64_t seen) {
        for (;;) {
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return quit_ || generation_ != seen; });
                if (quit_) return;
                seen = generation_;
            }
            work();
            std::lock_guard lock(mutex_);
            if (--active_ == 0) done_.notify_one();
        }
    }

    void work() {
        try {
            for (;;) {
                const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
                if (task >= n_tasks_) return;
                (*body_)(task);
            }
        } catch (...) {
            std::lock_guard lock(mutex_);
            if (!thrown_) thrown_ = std::current_exception();
        }
    }

    int n_threads_ = 1;
    std::vector<std::thread> workers_;
    std::mutex turns_, mutex_;
    std::condition_variable wake_, done_;
    const std::function<void(int64_t)> *body_ = nullptr;
    std::atomic<int64_t> next_{0};
    int64_t n_tasks_ = 0;
    int active_ = 0;
    uint64_t generation_ = 0;
    bool quit_ = false;
    std::exception_ptr thrown_;
};

}  // namespace vqrf
