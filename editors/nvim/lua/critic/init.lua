-- critic: critiques of what you write, by a model on your own machine.
--
-- The server does the thinking and knows where findings are; this starts it, asks it, and shows
-- what it says. Works from Neovim 0.7 on.
local M = {}

local defaults = {
  -- The program and its arguments.
  cmd = { 'critic', 'lsp' },
  -- File types that the server is attached to when a buffer is opened; '*' is all.
  filetypes = { '*' },
  -- The section `critic` of the server's settings.
  settings = {},
  -- Shows text in a floating window as it is written.
  window = true,
}

M.config = vim.deepcopy(defaults)

local view = require('critic.view')
-- The client's id, once the server runs.
local client_id = nil
-- The request that is under way: buffer and id.
local running = nil
-- The refinement that is shown.
local shown = nil

local function notify(message, level)
  vim.notify('critic: ' .. message, level or vim.log.levels.INFO)
end

local function client()
  return client_id and vim.lsp.get_client_by_id(client_id)
end

local function settings()
  return vim.tbl_extend('force', { stream = M.config.window }, M.config.settings)
end

--- Starts the server, if it does not run, and attaches it to a buffer.
function M.attach(buffer)
  buffer = (buffer == nil or buffer == 0) and vim.api.nvim_get_current_buf() or buffer
  if not client() then
    if vim.fn.executable(M.config.cmd[1]) ~= 1 then
      notify(M.config.cmd[1] .. ' is not installed; see :checkhealth critic', vim.log.levels.ERROR)
      return false
    end
    client_id = vim.lsp.start_client({
      name = 'critic',
      cmd = M.config.cmd,
      root_dir = vim.fn.getcwd(),
      capabilities = vim.lsp.protocol.make_client_capabilities(),
      init_options = settings(),
      settings = { critic = settings() },
      on_exit = function()
        client_id, running = nil, nil
      end,
      handlers = {
        ['critic/stream'] = function(_, params)
          view.stream(params.phase, params.text)
        end,
      },
    })
    if not client_id then
      notify('the server does not start', vim.log.levels.ERROR)
      return false
    end
  end
  vim.lsp.buf_attach_client(buffer, client_id)
  return true
end

--- Sets what differs from the defaults, and attaches the server to buffers of the file types.
function M.setup(config)
  M.config = vim.tbl_deep_extend('force', vim.deepcopy(defaults), config or {})
  local group = vim.api.nvim_create_augroup('critic', { clear = true })
  vim.api.nvim_create_autocmd('FileType', {
    group = group,
    pattern = M.config.filetypes,
    callback = function(event)
      if vim.bo[event.buf].buftype == '' and vim.api.nvim_buf_get_name(event.buf) ~= '' then
        M.attach(event.buf)
      end
    end,
  })
end

-- What a command is about: the lines of its range, the whole buffer with !, or else the function or
-- paragraph at the cursor.
local function about(opts)
  local argument = { uri = vim.uri_from_bufnr(0) }
  opts = opts or {}
  if opts.bang then
    argument.scope = 'document'
  elseif opts.range and opts.range > 0 then
    argument.scope = 'selection'
    argument.range = {
      start = { line = opts.line1 - 1, character = 0 },
      ['end'] = { line = opts.line2, character = 0 },
    }
  else
    argument.scope = 'function'
    local params = vim.lsp.util.make_position_params(0, client().offset_encoding)
    argument.position = params.position
  end
  return argument
end

-- Sends a command, and hands its result on.
local function execute(command, argument, callback)
  local buffer = vim.api.nvim_get_current_buf()
  local it = client()
  local sent, id
  local function done(err, result)
    -- A newer request may have taken its place.
    if running == id then
      running = nil
    end
    if err then
      view.close()
      -- Cancelled, by the person or by an edit.
      if err.code ~= -32800 and err.code ~= -32801 and err.code ~= -32802 then
        notify(err.message, vim.log.levels.ERROR)
      end
      return
    end
    callback(result or {}, buffer)
  end
  local params = { command = command, arguments = { argument } }
  sent, id = it.request('workspace/executeCommand', params, done, buffer)
  running = sent and id or nil
end

--- Asks for findings: they are diagnostics.
function M.critique(opts)
  if not M.attach() then
    return
  end
  if M.config.window then
    view.open('critique')
  end
  execute('critic.critique', about(opts), function(result)
    view.close()
    local count = #(result.findings or {})
    notify(count == 0 and 'nothing needs to change' or (count .. (count == 1 and ' finding' or ' findings')))
  end)
end

--- Asks for a better text, and shows the difference.
function M.refine(opts)
  if not M.attach() then
    return
  end
  if M.config.window then
    view.open('refinement')
  end
  execute('critic.refine', about(opts), function(result, buffer)
    view.close()
    if not result.changed then
      notify('nothing needs to change')
      return
    end
    shown = result
    view.diff(buffer, result, client().offset_encoding)
    notify(':CriticApply takes it, :CriticDiscard leaves it')
  end)
end

--- Takes the refinement that is shown; refused where the text has changed since.
function M.apply()
  if not shown then
    notify('no refinement is shown', vim.log.levels.WARN)
    return
  end
  local argument = { uri = shown.uri, id = shown.id }
  shown = nil
  view.close_diff()
  execute('critic.applyRefinement', argument, function(result)
    notify(result.applied and 'applied; u takes it back' or 'not applied')
  end)
end

--- Leaves it.
function M.discard()
  if shown then
    execute('critic.discardRefinement', { uri = shown.uri }, function() end)
    shown = nil
  end
  view.close_diff()
end

--- Cancels what runs.
function M.cancel()
  if running and client() then
    client().cancel_request(running)
  end
  -- Neovim does not call back for what was cancelled.
  running = nil
  view.close()
end

--- Forgets all findings of the buffer.
function M.clear()
  if client() then
    execute('critic.clear', { uri = vim.uri_from_bufnr(0) }, function() end)
  end
end

--- Applies all replacements that do not overlap.
function M.fix_all()
  if not client() then
    return
  end
  local buffer = vim.api.nvim_get_current_buf()
  local last = vim.api.nvim_buf_line_count(buffer)
  local params = {
    textDocument = { uri = vim.uri_from_bufnr(buffer) },
    range = { start = { line = 0, character = 0 }, ['end'] = { line = last, character = 0 } },
    context = { diagnostics = {}, only = { 'source.fixAll.critic' } },
  }
  client().request('textDocument/codeAction', params, function(err, actions)
    if err or not actions or not actions[1] then
      notify(err and err.message or 'nothing to fix')
      return
    end
    vim.lsp.util.apply_workspace_edit(actions[1].edit, client().offset_encoding)
  end, buffer)
end

--- Whether something runs: for tests and status lines.
function M.busy()
  return running ~= nil
end

return M
